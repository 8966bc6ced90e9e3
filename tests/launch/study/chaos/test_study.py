"""Trials that are done are not run again, and no other study's are taken for them."""

from dataclasses import replace

import pytest

import launch.study.chaos.study as study
from conf.chaos import ChaosConfig
from conf.programs import register
from launch.cli.refusals import UserError
from launch.study.chaos.outcomes import Trained, Trial

register()


@pytest.fixture
def ran(monkeypatch):
    """Numbers of the trials that were run, which start nothing."""
    numbers = []

    class NoRun:
        def __init__(self, config, folder, number, strike):
            assert list(folder.iterdir()) == []
            self.trial = Trial(
                number, strike, 17, 1, (0,), None, "", (), 1.0, Trained((1,), 4, 0, 0, 30.0, 0, 0)
            )

        def run(self):
            numbers.append(self.trial.number)
            return self.trial

    monkeypatch.setattr(study, "StruckRun", NoRun)
    return numbers


def config(tmp_path, **changes):
    return ChaosConfig(run_dir=str(tmp_path / "chaos"), base=[], **changes)


def test_a_study_goes_on_where_it_stopped(tmp_path, ran):
    told = []
    first = study.run_trials(config(tmp_path, runs=2), told.append)
    assert ran == [0, 1, 2]
    assert told == first
    (tmp_path / "chaos" / "0001" / study.TRIAL).unlink()
    (tmp_path / "chaos" / "0001" / "half").touch()
    again = study.run_trials(config(tmp_path, runs=3), told.append)
    assert ran == [0, 1, 2, 1, 3]
    assert again[:3] == first


def test_trials_of_another_seed_are_refused(tmp_path, ran):
    study.run_trials(config(tmp_path, runs=1), lambda trial: None)
    with pytest.raises(UserError, match="of this study with this seed"):
        study.run_trials(config(tmp_path, runs=1, seed=4), lambda trial: None)


def test_a_trial_that_cannot_be_read_is_named(tmp_path, ran):
    study.run_trials(config(tmp_path, runs=1), lambda trial: None)
    (tmp_path / "chaos" / "0001" / study.TRIAL).write_text('{"number": 1}')
    with pytest.raises(UserError, match=r"0001/trial\.json must be a trial"):
        study.run_trials(config(tmp_path, runs=1), lambda trial: None)


def test_a_whole_run_learns_its_steps_tickets(tmp_path):
    base = ["experiment=quickstart", "scheduler.tickets_per_step=4", "loop.max_staleness=0"]
    whole = replace(config(tmp_path, num_steps=5), base=base)
    assert study.whole_tickets(whole) == 20
    with pytest.raises(UserError, match="max_staleness=0"):
        study.whole_tickets(replace(whole, base=base[:2]))
