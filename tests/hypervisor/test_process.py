import os
import signal
import subprocess
import sys
import threading
import time
import uuid

import pytest

from ovirt_he_ha.hypervisor.process import (
    EngineProcess,
    ExitWatch,
    Gone,
    ProcessTable,
    StillThere,
    await_exit,
    find_engine,
    kill,
    kill_engine,
)
from tests.own_time import OwnTime

# The process table is the machine's: another run of these tests must not see these processes, or kill them.
VMID = str(uuid.uuid4())
NOBODY = str(uuid.uuid4())


@pytest.fixture
def qemu():
    """A process that looks like the VM's qemu."""
    made = []

    def start(*more, name="qemu-kvm", vmid=VMID):
        code = "import time; print('up', flush=True); time.sleep(60)"
        process = subprocess.Popen(
            [name, "-c", code, "-uuid", vmid, *more], executable=sys.executable, stdout=subprocess.PIPE
        )
        made.append(process)
        assert process.stdout.readline() == b"up\n"
        return process

    yield start
    for process in made:
        process.kill()
        process.wait()
        process.stdout.close()


def reap(process):
    """What the process's parent does in real life; a zombie's pidfd is readable before."""
    threading.Thread(target=process.wait, daemon=True).start()


def test_found_by_its_uuid_only(qemu):
    process = qemu()
    qemu(vmid=NOBODY)
    qemu(name="virsh")
    assert [found.pid for found in ProcessTable().find(VMID.upper())] == [process.pid]
    assert find_engine(VMID).incoming is False
    assert ProcessTable().age(find_engine(VMID)) < 60


def test_destination_of_a_migration_is_told(qemu):
    qemu("-incoming", "defer")
    assert find_engine(VMID).incoming is True


def test_killed_and_seen_gone(qemu):
    process = qemu()
    reap(process)
    assert isinstance(kill(find_engine(VMID), 5), Gone)
    assert process.wait(5) == -signal.SIGKILL
    assert find_engine(VMID) is None


def test_all_of_them_are_killed(qemu):
    for process in (qemu(), qemu()):
        reap(process)
    assert kill_engine(VMID, 5)
    assert isinstance(kill_engine(NOBODY, 0), Gone)


def test_pid_of_another_process_is_never_signalled(qemu):
    process = qemu()
    stale = EngineProcess(process.pid, find_engine(VMID).start_ticks - 1)
    assert isinstance(kill(stale, 1), Gone)
    assert process.poll() is None


def test_gone_process_is_no_error(qemu):
    process = qemu()
    known = find_engine(VMID)
    process.kill()
    process.wait()
    assert isinstance(kill(known, 1), Gone)
    assert isinstance(await_exit(known, 1, ProcessTable()), Gone)


def test_survivor_is_named_and_is_not_true(qemu):
    process = qemu()
    result = await_exit(find_engine(VMID), 0.05, ProcessTable())
    assert isinstance(result, StillThere)
    assert (result.pid, result.state, bool(result)) == (process.pid, "S", False)


def test_s2_a_signal_is_not_an_end(qemu, monkeypatch):
    process = qemu()
    monkeypatch.setattr(signal, "pidfd_send_signal", lambda fd, number: None)
    result = kill(find_engine(VMID), 0.05)
    assert isinstance(result, StillThere)
    assert result.pid == process.pid


def test_missing_right_is_said(qemu, monkeypatch):
    process = qemu()

    def denied(fd, number):
        raise PermissionError

    monkeypatch.setattr(signal, "pidfd_send_signal", denied)
    result = kill(find_engine(VMID), 1)
    assert isinstance(result, StillThere)
    assert "CAP_KILL" in result.why
    assert isinstance(kill_engine(VMID, 0.1), StillThere)
    assert process.poll() is None


def stat(state, threads=1, start=1000):
    fields = [state, *["0"] * 16, str(threads), "0", str(start), *["0"] * 30]
    return f"77 (qemu (x) y) {' '.join(fields)}"


def fake_process(root, pid, command=b"", state="S", threads=(), start=1000):
    base = root / str(pid)
    base.mkdir(parents=True)
    (base / "cmdline").write_bytes(command)
    (base / "stat").write_text(stat(state, max(1, len(threads)), start))
    for number, letter in enumerate(threads):
        task = base / "task" / str(pid + number)
        task.mkdir(parents=True)
        (task / "stat").write_text(stat(letter))
        (task / "cmdline").write_bytes(b"" if letter == "Z" else b"/usr/bin/qemu-kvm\0-uuid\0" + VMID.encode() + b"\0")


def test_zombie_with_a_stuck_thread_is_still_found(tmp_path):
    """SIGKILL while a thread waits for a hung disk: the leader is a zombie without a command line."""
    fake_process(tmp_path, 77, state="Z", threads=("Z", "D"))
    fake_process(tmp_path, 78, state="Z")
    fake_process(tmp_path, 79, state="S")
    (tmp_path / "self").mkdir()
    (tmp_path / "80").mkdir()
    table = ProcessTable(str(tmp_path))
    assert [process.pid for process in table.find(VMID)] == [77]
    assert table.stuck_state(77) == "D"
    assert table.stuck_state(99) == "?"
    assert table.stat(80) is None


def qemu_line():
    return b"/usr/bin/qemu-kvm\0-uuid\0" + VMID.encode() + b"\0"


def test_s4_a_process_whose_memory_is_locked_is_left_out_until_it_tells(tmp_path, monkeypatch):
    """Reading its command line hangs, as it does for a process that hangs on storage within a page fault."""
    monkeypatch.setattr("ovirt_he_ha.hypervisor.process.MUTE_SECONDS", 0.5)  # one that tells may stand in a queue
    for pid in (75, 76, 77, 78):
        fake_process(tmp_path, pid, qemu_line())
    (tmp_path / "76" / "cmdline").unlink()
    os.mkfifo(tmp_path / "76" / "cmdline")
    table = ProcessTable(str(tmp_path))
    try:
        for _ in range(3):
            found = []
            asking = threading.Thread(target=lambda: found.extend(table.find(VMID, [75, 76, 77, 78])), daemon=True)  # noqa: B023
            asking.start()
            asking.join(10)
            assert [process.pid for process in found] == [75, 77, 78]
            assert table.mute_qemus() == (76,)
        assert sum(thread.name == "process-look" for thread in threading.enumerate()) == 1
    finally:
        (tmp_path / "76" / "cmdline").write_bytes(qemu_line())  # it goes on, and tells
    while any(thread.name == "process-look" for thread in threading.enumerate()):
        time.sleep(0.01)
    (tmp_path / "76" / "cmdline").unlink()
    (tmp_path / "76" / "cmdline").write_bytes(qemu_line())
    assert [process.pid for process in table.find(VMID, [76])] == [76]
    assert table.mute_qemus() == ()


def test_a_known_process_is_followed_without_its_command_line(tmp_path):
    fake_process(tmp_path, 77, state="S", start=1000)
    fake_process(tmp_path, 78, state="Z", threads=("Z", "D"), start=1000)
    fake_process(tmp_path, 79, state="Z", start=1000)
    table = ProcessTable(str(tmp_path))
    assert [table.runs(EngineProcess(pid, 1000)) for pid in (77, 78, 79, 80)] == [True, True, False, False]
    assert not table.runs(EngineProcess(77, 1001))


def named(root, pid, threads):
    """Threads of a process: (name, hundredths of a second of CPU time in user and in system mode)."""
    fake_process(root, pid, command=qemu_line())
    for number, (name, user, system) in enumerate(threads):
        task = root / str(pid) / "task" / str(pid + number)
        task.mkdir(parents=True)
        (task / "comm").write_text(name + "\n")
        fields = stat("S").rpartition(") ")[2].split()
        fields[11], fields[12] = str(user), str(system)
        (task / "stat").write_text(f"{pid + number} ({name}) {' '.join(fields)}")


MAIN = ("qemu-kvm", 500, 500)


@pytest.mark.parametrize(
    "threads, ran",
    [
        ([MAIN, ("CPU 0/KVM", 0, 0)], False),
        ([MAIN, ("CPU 0/KVM", 0, 1), ("CPU 1/KVM", 2, 0)], False),
        ([MAIN, ("CPU 0/KVM", 4, 1), ("CPU 1/KVM", 0, 0)], True),
        ([MAIN, ("ALL CPUs/TCG", 0, 9)], True),
        ([MAIN], None),
        ([], None),
    ],
)
def test_s11_whether_a_cpu_of_it_has_run(tmp_path, threads, ran):
    named(tmp_path, 77, threads)
    table = ProcessTable(str(tmp_path))
    assert table.cpus_ran(EngineProcess(77, 1000)) is ran
    assert table.cpus_ran(EngineProcess(77, 1001)) is None  # another process under that number
    assert table.cpus_ran(EngineProcess(78, 1000)) is None


def test_unreadable_table_is_an_error_and_not_an_empty_one(tmp_path):
    with pytest.raises(OSError):
        ProcessTable(str(tmp_path / "none")).find(VMID)


def test_hidden_processes_are_known_to_be_hidden(tmp_path):
    assert ProcessTable().sees_all()
    assert not ProcessTable(str(tmp_path)).sees_all()


def test_other_namespace_is_left_out(qemu):
    qemu()
    own = os.readlink("/proc/self/ns/pid")
    assert len(ProcessTable(namespace=own).find(VMID)) == 1
    assert ProcessTable(namespace="pid:[1]").find(VMID) == []


def test_exit_is_announced_once_and_at_once(qemu):
    process = qemu()
    announced = []
    told = threading.Event()
    watch = ExitWatch(lambda gone: (announced.append((gone, took.seconds)), told.set()), ProcessTable())
    known = find_engine(VMID)
    watch.watch(known)
    watch.watch(known)
    took = OwnTime()
    process.kill()
    assert told.wait(30)
    assert [gone for gone, _ in announced] == [known]
    assert announced[0][1] < 1
    watch.close()


def test_watch_is_taken_off(qemu):
    first, second = qemu(), qemu(vmid=NOBODY)
    announced = []
    watch = ExitWatch(announced.append, ProcessTable())
    watch.watch(find_engine(VMID))
    watch.watch(find_engine(NOBODY))
    watch.watch(None)
    for process in (first, second):
        process.kill()
        process.wait()
    watch.close()
    assert [thread for thread in threading.enumerate() if thread.name == "qemu-exit" and thread.join(5)] == []
    assert announced == []


def test_watching_what_is_gone_is_told_at_once():
    announced = []
    watch = ExitWatch(announced.append, ProcessTable())
    gone = EngineProcess(2**22 - 1, 1)
    watch.watch(gone)
    assert announced == [gone]
