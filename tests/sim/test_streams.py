"""he-sim where nobody reads what it prints, where that cannot be written, and where it is interrupted."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, List

import pytest

from ovirt_he_ha.sim.run import workers

ROOT = Path(__file__).resolve().parent.parent.parent
COMMAND = [sys.executable, "-m", "ovirt_he_ha.sim.main"]
STORY = "tests/scenarios/quiet"


def begun(words: List[str], **options: Any) -> "subprocess.Popen[str]":
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    return subprocess.Popen([*COMMAND, *words], cwd=ROOT, env=environment, text=True, start_new_session=True, **options)


def test_standard_output_that_is_full_is_one_line_and_a_failure() -> None:
    for words in (["faults"], ["run", STORY], ["swarm", "--seeds", "1"]):
        with open("/dev/full", "w", encoding="utf-8") as full:
            process = begun(words, stdout=full)
            told = process.communicate()[1].splitlines()
        assert process.returncode == 1
        assert [line for line in told if "virtual seconds" not in line] == [
            "he-sim: [Errno 28] No space left on device"
        ]


def test_a_reader_who_has_gone_is_no_word_worth() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    process = begun(["faults"], stdout=writing)
    os.close(writing)
    assert process.communicate()[1] == "" and process.returncode == 1


@pytest.mark.parametrize("closed", [1, 2])
def test_a_closed_stream_changes_nothing(closed: int) -> None:
    process = begun(
        ["run", STORY], **{"stdout" if closed == 1 else "stderr": None}, preexec_fn=lambda: os.close(closed)
    )
    out, told = process.communicate()
    assert process.returncode == 0
    assert "Traceback" not in (told or "")
    if closed == 2:
        assert out.splitlines()[-1] == "1 passed, 0 failed"


@pytest.mark.parametrize("jobs", ["1", "3"])
def test_ctrl_c_is_one_line(jobs: str) -> None:
    large = ["tests/scenarios/sixty-four-hosts", "tests/scenarios/two-hundred-and-fifty-hosts"]
    process = begun(["run", "--jobs", jobs, STORY, *large])
    assert process.stdout is not None
    assert process.stdout.readline().startswith("passed quiet")  # the others are at work
    os.killpg(process.pid, signal.SIGINT)
    told = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert told.split() == ["he-sim:", "interrupted"]


def test_ctrl_c_while_processes_are_begun_is_left_to_the_command() -> None:
    """A process that is still importing has no handler of its own."""
    with workers(1) as pool:
        assert pool.apply(signal.getsignal, (signal.SIGINT,)) is signal.SIG_IGN
    assert signal.getsignal(signal.SIGINT) is not signal.SIG_IGN
