"""What an interrupted run left is kept."""

from launch.study.comparison.plan import plan_runs
from launch.study.comparison.running import set_aside
from tests.launch.study.comparison.planned import finish


def test_what_an_interrupted_run_left_is_kept(make_config):
    run = plan_runs(make_config())[0]
    for count in (1, 2):
        finish(run, completed=False)
        aside = set_aside(run.run_dir)
        assert not run.run_dir.exists()
        assert aside == run.run_dir.parent / f"seed-0.interrupted-{count}"
        assert (aside / "summary.json").exists()
    assert set_aside(run.run_dir) is None
