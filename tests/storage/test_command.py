"""External commands as they really end: in time, too late, not at all, with children, with much to say."""

import os
import resource
import signal
import sys
import time

import pytest

from ovirt_he_ha.storage import command
from ovirt_he_ha.storage.command import CommandError, Commands, SecretOnCommandLine
from tests.own_time import OwnTime

PYTHON = sys.executable


def failure(call):
    with pytest.raises(CommandError) as caught:
        call()
    return caught.value


def test_output_and_environment():
    outcome = Commands({"PATH": "/x", "SECRET": "1"}).run(["sh", "-c", "env; echo no >&2; exit 3"], 10, accept=(3,))
    names = {line.split("=")[0] for line in outcome.out.splitlines()}
    assert "SECRET" not in names and "LC_ALL=C" in outcome.out and outcome.err == "no\n" and outcome.status == 3


def test_the_error_has_status_and_words():
    found = failure(lambda: Commands().run(["sh", "-c", "echo out; printf 'bad\\n\\007worse\\n' >&2; exit 32"], 10))
    assert (found.code, found.status, found.said) == ("failed", 32, "bad; ?worse") and "32" in str(found)


def test_only_the_output_if_there_is_no_error_text():
    assert failure(lambda: Commands().run(["sh", "-c", "echo here; exit 1"], 10)).said == "here"
    assert "no word" in str(failure(lambda: Commands().run(["false"], 10)))


def test_a_long_complaint_is_cut():
    found = failure(lambda: Commands().run(["sh", "-c", "yes x | head -100000 >&2; exit 1"], 20))
    assert len(found.said) == command.MOST_TOLD


def test_too_late_with_its_children(tmp_path):
    pid_file = tmp_path / "pid"
    took = OwnTime()
    found = failure(lambda: Commands().run(["sh", "-c", f"sleep 100 & echo $! > {pid_file}; wait"], 0.5))
    assert found.code == "overdue" and took.seconds < 3
    with pytest.raises(ProcessLookupError):
        for _ in range(100):
            os.kill(int(pid_file.read_text()), 0)
            time.sleep(0.02)


def test_deaf_to_the_first_signal():
    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(100)"
    took = OwnTime()
    assert failure(lambda: Commands().run([PYTHON, "-I", "-c", code], 1)).code == "overdue"
    assert took.seconds < 4


def test_one_that_cannot_be_killed_is_left(monkeypatch):
    monkeypatch.setattr(command.os, "killpg", lambda pid, number: pids.append(pid))
    monkeypatch.setattr(command, "holders", lambda outputs: [])
    pids = []
    found = failure(lambda: Commands().run(["sleep", "60"], 0.1))
    assert found.code == "stuck" and "kernel" in str(found)
    os.kill(pids[0], signal.SIGKILL)
    os.waitpid(pids[0], 0)


def test_a_daemon_that_it_leaves_behind_keeps_nobody(tmp_path):
    """mount.nfs starts rpc.statd, which has its standard error."""
    took = OwnTime()
    pid = Commands().run(["sh", "-c", "setsid sleep 20 & echo $!"], 10).out
    try:
        assert took.seconds < 5
    finally:
        os.kill(int(pid), signal.SIGKILL)


FLOOD = """import os, sys
for _ in range(160):
    os.write(int(sys.argv[1]), b"x" * (1 << 20))
os.write(int(sys.argv[1]), b"\\nlast word\\n")
sys.exit(int(sys.argv[2]))
"""


@pytest.fixture
def memory():
    """Bytes that this process has had at most since here, beyond what it had."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return lambda: (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10


@pytest.mark.parametrize("number", [1, 2])
def test_a_flood_is_not_kept_and_its_end_is_told(number, memory):
    call = [PYTHON, "-I", "-c", FLOOD, str(number)]
    found = failure(lambda: Commands().run([*call, "5"], 60))
    assert (found.code, found.status) == ("failed", 5) and found.said.endswith("last word")
    assert memory() < 64 << 20
    if number == 2:
        assert Commands().run([*call, "0"], 60).err.endswith("last word\n")
    else:  # half a report is none
        found = failure(lambda: Commands().run([*call, "0"], 60))
        assert (found.code, found.status) == ("failed", 0) and "MiB" in found.said


def test_a_flood_without_an_end_is_killed_in_time(memory):
    took = OwnTime()
    assert failure(lambda: Commands().run(["yes"], 0.5)).code == "overdue"
    assert took.seconds < 3 and memory() < 64 << 20


def test_a_report_of_some_mib_is_whole():
    said = Commands().run([PYTHON, "-I", "-c", "print('y' * 3_000_000)"], 20).out
    assert len(said) == 3_000_001


def test_too_late_with_what_began_a_session_of_its_own(tmp_path):
    """Not what became a daemon as it should: it is none of the command any more."""
    words = f"setsid sleep 100 & echo $! > {tmp_path}/kept; setsid sleep 100 </dev/null >/dev/null 2>&1 & "
    words += f"echo $! > {tmp_path}/left; sleep 100"
    assert failure(lambda: Commands().run(["sh", "-c", words], 0.5)).code == "overdue"
    kept, left = (int((tmp_path / name).read_text()) for name in ("kept", "left"))
    try:
        with pytest.raises(ProcessLookupError):
            for _ in range(100):
                os.kill(kept, 0)
                time.sleep(0.02)
    finally:
        os.kill(left, signal.SIGKILL)


def test_a_daemon_that_was_left_behind_cannot_fill_memory_through_our_outputs(tmp_path):
    """It goes on without being killed for its words."""
    done = tmp_path / "done"
    words = f"setsid sh -c 'read x < {tmp_path}/go; echo much; echo $? > {done}' & :"
    os.mkfifo(tmp_path / "go")
    Commands().run(["sh", "-c", words], 10)
    (tmp_path / "go").write_text("go\n")
    for _ in range(200):
        if done.exists() and done.read_text():
            break
        time.sleep(0.02)
    assert done.read_text() == "1\n"


def test_absent():
    assert failure(lambda: Commands().run(["no-such-program-here"], 5)).code == "absent"


def test_secrets():
    found = failure(
        lambda: Commands().run(["sh", "-c", "tr a-z b-za <<E >&2; exit 1\nrdbqds\nE"], 5, secrets=("secret",))
    )
    assert found.said == "***" and "secret" not in str(found)
    with pytest.raises(SecretOnCommandLine) as caught:
        Commands().run(["true", "--password=secret"], 5, secrets=("secret",))
    assert "secret" not in str(caught.value)


def test_a_secret_that_is_part_of_a_name_or_a_word_of_the_tool_hinders_nothing():
    for secret, words in (("storage", ["iqn.2026-01.org.example:storage"]), ("node", ["-m", "node"]), ("a", ["--all"])):
        assert Commands().run(["echo", *words], 5, secrets=(secret,)).out == " ".join(words) + "\n"
