"""What is told of an engine that fails, from logs as vLLM 0.32 writes them."""

import os

import pytest

from rollout.engines.errors import EngineLog, EngineStartError, exception_of, first_error

WORKER = """\
(MainProcess pid=7) WARNING 11-30 18:39:53 [vllm.py:725] Model Runner V2 requires Triton\r
(Worker pid=12) ERROR 11-30 18:40:18 [multiproc_executor.py:953] WorkerProc failed to start.\r
(Worker pid=12) ERROR 11-30 18:40:18 [multiproc_executor.py:953] Traceback (most recent call last):
(Worker pid=12) ERROR 11-30 18:40:18 [multiproc_executor.py:953]   File "a.py", line 1, in f\r
"""
FOLLOWS = """\
(EngineCore pid=11) ERROR 11-30 18:40:21 [core.py:1510] EngineCore failed to start.
(EngineCore pid=11) ERROR 11-30 18:40:21 [core.py:1510] Exception: see root cause above
"""
LAST = """\
\x1b[0;36m(Worker pid=12)\x1b[0;0m ERROR 11-30 18:40:18 [a.py:953] ValueError: no room (2 GiB)
(Worker pid=12) ERROR 11-30 18:40:18 [a.py:953] Set X=1 for more.
"""
SAID = """\
(Worker pid=12)
WorkerProc failed to start.
Traceback (most recent call last):
  File "a.py", line 1, in f
ValueError: no room (2 GiB)
Set X=1 for more."""


@pytest.fixture
def stdout(tmp_path):
    """A log with an error of earlier."""
    (tmp_path / "worker.out").write_text(FOLLOWS)
    descriptor = os.open(tmp_path / "worker.out", os.O_WRONLY | os.O_APPEND)
    yield descriptor
    os.close(descriptor)


def test_the_first_process_that_failed_is_heard_and_those_that_follow_are_not():
    assert first_error(WORKER + FOLLOWS + LAST, own_pid=7) == SAID
    assert first_error(LAST, own_pid=12) == "", "of who asks"
    fine = "an ERROR of nobody\n(Worker pid=12) INFO 11-30 18:40:18 [a.py:1] ok\n"
    assert first_error(fine, own_pid=7) == ""


def test_an_exception_is_one_line_of_its_traceback():
    assert exception_of(SAID) == "ValueError: no room (2 GiB)"
    assert exception_of("no traceback\nin this") == ""
    assert exception_of("Traceback (most recent call last):\n  cut off") == ""
    assert len(exception_of("  File\nMemoryError: " + "long" * 1000)) == 300


@pytest.mark.parametrize("log, says", [(WORKER + LAST, SAID), ("nothing\n", None)])
def test_an_error_says_what_was_logged_since_the_start(stdout, log, says):
    engine_log = EngineLog(stdout)
    with pytest.raises(RuntimeError) as caught, engine_log.explained():
        os.write(stdout, log.encode())
        raise RuntimeError("see root cause above")
    if says is None:
        assert str(caught.value) == "see root cause above"
        assert str(engine_log.death()) == "its engine died"
    else:
        assert caught.type is EngineStartError
        assert str(caught.value) == f"an engine did not start: {says}"
        assert str(engine_log.death()) == "its engine died of ValueError: no room (2 GiB)"


def test_what_logs_to_no_file_keeps_its_error():
    reader, writer = os.pipe()
    with pytest.raises(RuntimeError, match=r"^above$"), EngineLog(writer).explained():
        os.write(writer, LAST.encode())
        raise RuntimeError("above")
    os.close(reader)
    os.close(writer)


@pytest.mark.parametrize(
    ("code", "says"),
    [
        (-9, "an engine did not start: its process was ended by SIGKILL, as happens when memory"),
        (-11, "an engine did not start: its process was ended by SIGSEGV"),
        (1, "Engine core initialization failed"),
    ],
)
def test_an_engine_that_a_signal_ended_says_which(stdout, code, says):
    failed = f"Failed core proc(s): {{'EngineCore': {code}}}"
    with pytest.raises(RuntimeError) as caught, EngineLog(stdout).explained():
        raise RuntimeError(f"Engine core initialization failed. See root cause above. {failed}")
    assert str(caught.value).startswith(says)
