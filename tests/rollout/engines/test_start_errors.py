"""What is told of an engine that does not start, from logs as vLLM 0.32 writes them."""

import os

import pytest

from rollout.engines.start_errors import EngineStartError, explained, first_error

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
"""
SAID = """\
(Worker pid=12)
WorkerProc failed to start.
Traceback (most recent call last):
  File "a.py", line 1, in f
ValueError: no room (2 GiB)"""


def test_the_first_process_that_failed_is_heard_and_those_that_follow_are_not():
    assert first_error(WORKER + FOLLOWS + LAST) == SAID
    assert (
        first_error("an ERROR of nobody\n(Worker pid=12) INFO 11-30 18:40:18 [a.py:1] ok\n") == ""
    )


@pytest.mark.parametrize("log, says", [(WORKER + LAST, SAID), ("nothing\n", None)])
def test_an_error_says_what_was_logged_since_the_start(tmp_path, log, says):
    path = tmp_path / "worker.out"
    path.write_text(FOLLOWS)
    stdout = os.open(path, os.O_WRONLY | os.O_APPEND)
    try:
        with pytest.raises(RuntimeError) as caught, explained(stdout):
            os.write(stdout, log.encode())
            raise RuntimeError("see root cause above")
    finally:
        os.close(stdout)
    if says is None:
        assert str(caught.value) == "see root cause above"
    else:
        assert caught.type is EngineStartError
        assert str(caught.value) == f"an engine did not start: {says}"


def test_what_logs_to_no_file_keeps_its_error():
    reader, writer = os.pipe()
    with pytest.raises(RuntimeError, match=r"^above$"), explained(writer):
        os.write(writer, LAST.encode())
        raise RuntimeError("above")
    os.close(reader)
    os.close(writer)
