"""What is done with jobs that were sent, on a server made by hand."""

from types import SimpleNamespace

import pytest

from conf.programs import register
from conf.submit import SubmitConfig
from launch.cli.refusals import RunError, UserError
from launch.jobs.forms import STOP_WAIT
from launch.jobs.submission import checked_run, resuming, submit, training
from launch.jobs.verbs import again, found, metadata_of, patience_of, read_metadata, stop, table_of
from launch.program import compose_run

register()
SENT = ["experiment=quickstart", "loop.num_steps=3"]


class Status:
    def __init__(self, value):
        self.value = value

    def __str__(self):
        return self.value

    def is_terminal(self):
        return self.value in ("STOPPED", "SUCCEEDED", "FAILED")


def details(name="first", status="RUNNING", **changes):
    metadata = metadata_of("train", SENT, "/shared/a")
    known = {"submission_id": name, "status": Status(status), "start_time": 1_700_000_000_000,
             "metadata": metadata, "runtime_env": {"env_vars": {STOP_WAIT: "150"}}}  # fmt: skip
    return SimpleNamespace(**known | changes)


class Server:
    """One job, which takes so many looks to stop once it is asked to."""

    def __init__(self, job, looks=3):
        self.job, self.looks, self.asked = job, looks, []

    def get_job_info(self, name):
        if name != self.job.submission_id:
            raise RuntimeError(f"Request failed with status code 404: Job {name} does not exist")
        if self.asked:
            self.looks -= 1
            if self.looks == 0:
                self.job.status = Status("STOPPED")
        return self.job

    def stop_job(self, name):
        self.asked.append(name)

    def list_jobs(self):
        return [self.job]

    def submit_job(self, **job):
        self.sent = job


def test_jobs_are_listed_with_status_start_and_run_folder():
    jobs = [
        details("b", "SUCCEEDED", start_time=1_800_000_000_000),
        details("a-long-name"),
        details(None),
        details("another's", "PENDING", start_time=None, metadata=None),
    ]
    heading, *lines = table_of(jobs).splitlines()
    assert heading.split() == ["job", "status", "started", "run", "folder"]
    assert [line.split()[0] for line in lines] == ["another's", "a-long-name", "b"]
    assert lines[0].split() == ["another's", "PENDING", "-", "-"]
    assert lines[1].split()[1] == "RUNNING" and lines[1].endswith("/shared/a")
    assert lines[1].index("/shared/a") == heading.index("run folder")
    assert table_of([details(None)]) == ""


def test_a_job_that_is_stopped_is_waited_for_as_long_as_it_may_take():
    server, said, waited = Server(details()), [], []
    stop(server, "first", said.append, waited.append)
    assert server.asked == ["first"] and len(waited) == 2
    assert said == [
        "job first is asked to end in order, for which it has 180 s",
        "job first ended as STOPPED",
    ]


@pytest.mark.parametrize("error", [ConnectionError("reset"), RuntimeError("status code 500")])
def test_a_server_that_does_not_answer_once_is_asked_again(error):
    server, said, failures = Server(details()), [], [None, error, error]
    look = server.get_job_info

    def get_job_info(name):
        if failures and (failure := failures.pop(0)) is not None:
            raise failure
        return look(name)

    server.get_job_info = get_job_info
    stop(server, "first", said.append, lambda seconds: None)
    assert said[-1] == "job first ended as STOPPED" and not failures


def test_a_server_that_does_not_take_the_stop_is_told_in_a_sentence():
    server = Server(details())

    def stop_job(name):
        raise ConnectionError("reset\nby peer")

    server.stop_job = stop_job
    with pytest.raises(RunError, match=r"^the job server says of 'first': reset by peer$"):
        stop(server, "first", lambda text: None, lambda seconds: None)


def test_a_job_that_does_not_end_is_an_error_after_its_time():
    waited = []
    with pytest.raises(RunError, match=r"^job first has not ended within 180 s; it is RUNNING$"):
        stop(Server(details(), looks=10_000), "first", lambda text: None, waited.append)
    assert sum(waited) == 180


def test_a_job_that_has_ended_is_not_asked():
    server, said = Server(details(status="FAILED")), []
    stop(server, "first", said.append)
    assert server.asked == [] and said == ["job first has ended as FAILED"]


def test_a_job_that_is_not_there_is_named():
    with pytest.raises(UserError, match=r"one of the cluster's, .* got 'other'$"):
        found(Server(details()), "other")


@pytest.mark.parametrize("environment", [None, {}, {"env_vars": {STOP_WAIT: "soon"}}])
def test_a_job_of_others_has_a_minute_to_end(environment):
    assert patience_of(details(runtime_env=environment)) == 60


@pytest.mark.parametrize("metadata", [None, {}, {"program": "train", "overrides": "{"}])
def test_what_others_sent_is_not_sent_again(metadata):
    assert read_metadata(metadata) is None
    server = Server(details(status="FAILED", metadata=metadata))
    with pytest.raises(UserError, match=r"^the job to go on with must be one that launch\.submit"):
        again(server, "first", SubmitConfig(name="second"), [])


@pytest.mark.parametrize(
    ("address", "told"), [(None, "stop first`"), ("http://h:1", "stop first address=http://h:1`")]
)
def test_a_job_that_runs_is_not_sent_again(address, told):
    with pytest.raises(UserError, match=rf"must have ended, and 'first' is RUNNING; .*{told}$"):
        again(Server(details()), "first", SubmitConfig(name="second", address=address), [])


def test_a_job_goes_on_with_what_it_ran_and_where_but_for_what_is_changed():
    sent = resuming("train", [*SENT, "run_dir=/shared/${name}"], training([*SENT, "run_dir=/a"]))
    metadata = metadata_of("train", sent, "/shared/a")
    server = Server(details(status="STOPPED", metadata=metadata))
    config = SubmitConfig(name="second", action=["resume", "first"], program="compare")
    config, overrides = again(server, "first", config, ["loop.num_steps=9"])
    assert (config.name, config.program, config.action) == ("second", "train", [])
    run = checked_run(config, overrides)
    composed = compose_run(resuming(config.program, overrides, run))
    assert (composed.loop.num_steps, composed.run_dir, composed.resume) == (9, "/a", "auto")


def test_actions_reach_the_server_and_a_job_that_goes_on_is_sent(monkeypatch, capsys):
    server = Server(details(status="STOPPED"))
    sent = resuming("train", [*SENT, "run_dir=/shared/a"], training([*SENT, "run_dir=/shared/a"]))
    server.job.metadata = metadata_of("train", sent, "/shared/a")
    monkeypatch.setattr("launch.jobs.submission.connect", lambda address: server)
    readers = {"train": training}

    def act(*action, overrides=()):
        config = SubmitConfig(name="second", address="http://head:8265", action=list(action),
                              follow=False)  # fmt: skip
        submit(config, list(overrides), readers)
        return capsys.readouterr().out

    assert "first  STOPPED" in act("list")
    assert "has ended as STOPPED" in act("stop", "first")
    with pytest.raises(UserError, match=r"^nothing can stand behind `--` with list"):
        act("list", overrides=["loop.num_steps=4"])
    assert "MiB of " in act("resume", "first", overrides=["loop.num_steps=4"])
    assert server.sent["submission_id"] == "second"
    assert "loop.num_steps=4" in server.sent["entrypoint"]
    assert "loop.num_steps=3" not in server.sent["entrypoint"]
    assert server.sent["metadata"]["run_dir"] == "/shared/a"


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"action": ["stopp", "a"]}, r"^action, the bare words, must be list, stop NAME or resume"),
        ({"action": ["stop", ""]}, r"^action, the bare words, must be list, stop NAME or resume"),
        ({"action": ["stop"]}, r"^action, .* got 'stop'$"),
        ({"action": ["list", "a"]}, r"^action, .* got 'list a'$"),
        ({"action": ["list"], "form": "slurm"}, r"^form must be submit with list, .* got 'slurm'$"),
    ],
)
def test_actions_that_cannot_be_are_refused(settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        SubmitConfig(name="first", **settings)
