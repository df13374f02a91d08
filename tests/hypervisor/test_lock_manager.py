import os
from pathlib import Path

import pytest

from ovirt_he_ha.hypervisor import lock_manager
from ovirt_he_ha.hypervisor.lock_manager import OFF, SANLOCK, STALE, UNKNOWN


class Machine:
    """libvirt's files, and a process table in which its daemon runs."""

    def __init__(self, root: Path) -> None:
        self.conf = root / "qemu.conf"
        self.pid_file = root / "libvirtd.pid"
        self.proc = root / "proc"
        (self.proc / "4711").mkdir(parents=True)
        self.write('lock_manager = "sanlock"\n')
        self.pid_file.write_text("4711\n")
        self.times(conf=1000.0, daemon=2000.0)

    def write(self, text: str) -> None:
        self.conf.write_text(text)

    def times(self, conf: float, daemon: float) -> None:
        os.utime(self.conf, (conf, conf))
        os.utime(self.pid_file, (daemon, daemon))

    def word(self) -> str:
        return lock_manager.in_force(self.conf, (self.conf.with_name("none.pid"), self.pid_file), self.proc)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_a_daemon_that_read_the_file_uses_sanlock(machine: Machine) -> None:
    assert machine.word() == SANLOCK


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("", OFF),
        ('# lock_manager = "sanlock"\n', OFF),
        ('lock_manager = "lockd"\n', "lockd"),
        ('lock_manager = "sanlock"\nlock_manager = "lockd"\n', "lockd"),
        ("  lock_manager='sanlock'  # guards the engine\n", SANLOCK),
        ('lock_manager = "sanlock\n', OFF),
        ('xlock_manager = "sanlock"\n', OFF),
        ("\ud800".encode("utf-8", "surrogatepass").decode("latin-1"), OFF),
    ],
)
def test_what_the_file_says(machine: Machine, text: str, word: str) -> None:
    machine.write(text)
    machine.times(conf=1000.0, daemon=2000.0)
    assert machine.word() == word


def test_a_daemon_older_than_the_file_has_not_read_it(machine: Machine) -> None:
    machine.times(conf=3000.0, daemon=2000.0)
    assert machine.word() == STALE
    machine.times(conf=3000.0, daemon=3001.0)
    assert machine.word() == SANLOCK


def test_what_is_off_in_the_file_is_off_whatever_runs(machine: Machine) -> None:
    machine.write("")
    machine.times(conf=3000.0, daemon=2000.0)
    assert machine.word() == OFF


def test_a_daemon_that_does_not_run_reads_the_file_when_it_starts(machine: Machine) -> None:
    machine.times(conf=3000.0, daemon=2000.0)
    machine.pid_file.write_text("4712\n")
    assert machine.word() == SANLOCK
    machine.pid_file.write_text("nonsense")
    assert machine.word() == SANLOCK


def test_no_file_is_libvirts_default_and_one_that_cannot_be_read_is_unknown(machine: Machine) -> None:
    machine.conf.unlink()
    assert machine.word() == OFF
    machine.conf.mkdir()
    assert machine.word() == UNKNOWN
