"""The reasons of failures in one line."""

from __future__ import annotations

from ray.exceptions import OutOfMemoryError, RayActorError

from study.execution.failures import last_line
from study.execution.ray.executor import _failure

MEMORY = (
    "Memory on the node (IP: 127.0.0.1, ID: 8d7c) was 5.229842GB used / 23.515625GB limit (0.222398)\n"
    "Ray killed 1 worker(s) based on the killing policy\n"
    "Top 10 memory users:\nPID\tMEM(GB)\tCOMMAND\n12\t1.2\tray::x\n"
    "Refer to the documentation on how to address the out of memory issue."
)
DIED = (
    "The actor died unexpectedly before finishing this task.\n\tclass_name: ImplicitFunc\n"
    "The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR Worker exit detail: Worker "
    "unexpectedly exits with a connection error code 2. End of file. Some common causes include: (1) the process was "
    "killed by the OOM killer due to high memory usage, (2) ray stop --force was called, or (3) the worker crashed "
    "unexpectedly due to SIGSEGV or another unexpected error."
)


def test_a_worker_that_the_memory_monitor_ended_is_told_with_the_memory() -> None:
    for error in (OutOfMemoryError(MEMORY), RayActorError(error_msg=MEMORY)):
        failure = _failure(error)
        assert failure.worker_died and "\n" not in failure.error
        assert "5.2 of 23.5 GB of the node were in use" in failure.error and "smaller batches" in failure.error


def test_a_worker_s_death_is_told_in_whole_sentences() -> None:
    failure = _failure(RayActorError(error_msg=DIED))
    assert failure.worker_died and failure.error.startswith("its worker died: The actor is dead because")
    assert failure.error.endswith("or another unexpected error.")


def test_long_lines_end_after_a_sentence() -> None:
    long = "first\n" + "One sentence has ended. " * 60
    assert last_line(long).endswith("ended.") and 600 < len(last_line(long)) <= 800
    assert last_line("word " * 300).endswith("word ...") and len(last_line("word " * 300)) <= 804
    assert last_line("") == "unknown error" and last_line(KeyError()) == "KeyError"
