"""A host's view of the storage, with the real kernel: what it passes through, its faults, and how it ends."""

import ctypes
import errno
import fcntl
import mmap
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest

from ovirt_he_ha.lab import mounted_view, native_code
from ovirt_he_ha.lab.layout import Lab
from tests.contract import own_mounts
from tests.own_time import OwnTime

SIZE = 4096


pytestmark = pytest.mark.contract


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    if own_mounts.missing():
        pytest.skip(own_mounts.missing())
    if not native_code.FUSE_DEVICE.exists():
        pytest.skip("/dev/fuse is missing")
    built = tmp_path_factory.mktemp("native") / "storage_view"
    try:
        native_code.build_view(built)
    except native_code.NotBuilt as e:
        pytest.skip(str(e))
    return built


@pytest.fixture
def lab(program, tmp_path):
    made = Lab(str(tmp_path), 2, 10.0, "10.9.0.0/24", "10.9.1.0/24", sys.executable, "")
    for directory in (made.storage, made.log, made.native):
        directory.mkdir()
    made.view_program.symlink_to(program)
    (made.storage / "disk").write_bytes(b"a" * SIZE * 4)
    return made


@contextmanager
def views(lab, hosts=1):
    """The mounted views of the first hosts; whatever happens, nothing hangs in them afterwards."""
    mounted_view.mount_connections(lab)
    mounted = []
    try:
        for host_id in range(1, hosts + 1):
            mounted.append(mounted_view.MountedView(lab.host(host_id)))
        yield mounted
    finally:
        for each in mounted:
            each.cut()
            each.server.wait(10)


def aligned(fill):
    buffer = mmap.mmap(-1, SIZE)
    buffer[:] = fill * SIZE
    return buffer


def direct(path, flags=os.O_RDWR):
    return os.open(path, flags | os.O_DIRECT)


def failing(call):
    try:
        call()
    except OSError as e:
        return e.errno
    return None


class Other:
    """A process that does one thing to the storage, which may hang."""

    def __init__(self, code, *paths):
        preamble = "import os, sys; path = sys.argv[1]\n"
        self.popen = subprocess.Popen(
            [sys.executable, "-c", preamble + code, *map(str, paths)], stderr=subprocess.DEVNULL
        )

    def ends(self, seconds):
        try:
            self.popen.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def hangs(self):
        until_it_waits(self.popen.pid)
        return self


def until_it_waits(pid):
    """In the kernel, for the storage."""
    end = time.monotonic() + 10
    while True:
        with open(f"/proc/{pid}/wchan") as stream:
            waits_in = stream.read()
        if waits_in == "request_wait_answer":
            return
        assert time.monotonic() < end, f"it waits in {waits_in!r}"
        time.sleep(0.01)


def writes(fd):
    """A process that hangs in a write through a file that was open before."""
    pid = os.fork()
    if pid == 0:
        os.pwrite(fd, b"z" * SIZE, SIZE)
        os._exit(0)
    until_it_waits(pid)
    return pid


def passes_through(lab):
    with views(lab, 2):
        here, there = (lab.host(host_id).view for host_id in (1, 2))
        fd, other = direct(here / "disk"), direct(there / "disk", os.O_RDONLY)
        os.pwritev(fd, [aligned(b"b")], SIZE)
        buffer = mmap.mmap(-1, SIZE)
        for reader in (other, direct(lab.storage / "disk", os.O_RDONLY)):
            assert os.preadv(reader, [buffer], SIZE) == SIZE
            assert buffer[:] == b"b" * SIZE
        os.fsync(fd)
        assert os.fstat(fd).st_size == SIZE * 4
        os.ftruncate(fd, SIZE * 5)
        assert (there / "disk").stat().st_size == SIZE * 5
        os.posix_fallocate(fd, 0, SIZE * 6)
        (here / "made").write_bytes(b"new")
        os.chown(here / "made", 36, 36)
        os.chmod(here / "made", 0o640)
        (here / "made").rename(here / "renamed")
        seen = (lab.storage / "renamed").stat()
        assert (seen.st_uid, seen.st_gid, seen.st_mode & 0o777) == (36, 36, 0o640)
        assert sorted(os.listdir(there)) == ["disk", "renamed"]
        (there / "renamed").unlink()
        assert not (here / "renamed").exists()
        assert os.statvfs(here).f_bsize == os.statvfs(lab.storage).f_bsize


def test_it_passes_through(lab):
    own_mounts.run(passes_through, lab)


def other_users(lab):
    os.chown(lab.storage / "disk", 36, 36)
    os.chmod(lab.storage / "disk", 0o600)
    lab.storage.chmod(0o777)
    lab.root.chmod(0o755)
    for parent in lab.root.parents:
        parent.chmod(parent.stat().st_mode | 0o001)
    with views(lab):
        path = lab.host(1).view
        code = "os.setgid({0}); os.setuid({0}); os.open(path + '/disk', os.O_RDWR); open(path + '/of{0}', 'w')"
        allowed, refused = (Other(code.format(uid), path) for uid in (36, 37))
        assert allowed.ends(10) and refused.ends(10)
        assert (allowed.popen.returncode, refused.popen.returncode) == (0, 1)
        assert (lab.storage / "of36").stat().st_uid == 36


def test_owners_and_modes_count(lab):
    own_mounts.run(other_users, lab)


def locks(lab):
    with views(lab, 2):
        mine, also, there = (direct(lab.host(host_id).view / "disk") for host_id in (1, 1, 2))
        for lock in (fcntl.flock, fcntl.lockf):
            lock(mine, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if lock is fcntl.flock:
                with pytest.raises(BlockingIOError):
                    lock(also, fcntl.LOCK_EX | fcntl.LOCK_NB)
            lock(there, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_locks_are_each_hosts_own(lab):
    """A lock cannot stand in for the lease."""
    own_mounts.run(locks, lab)


def errors(lab):
    with views(lab, 2) as (view, _):
        path = lab.host(1).view / "disk"
        fd, other = direct(path), direct(lab.host(2).view / "disk")
        buffer = aligned(b"c")
        view.switch("error", 0)
        for call in (
            lambda: os.preadv(fd, [buffer], 0),
            lambda: os.pwritev(fd, [buffer], 0),
            lambda: os.fsync(fd),
            lambda: os.ftruncate(fd, 0),
        ):
            assert failing(call) == errno.EIO
        assert path.stat().st_size == SIZE * 4
        os.close(direct(path))
        assert os.preadv(other, [buffer], 0) == SIZE
        assert buffer[:] == b"a" * SIZE
        view.switch("ok", 0)
        assert os.pwritev(fd, [buffer], 0) == SIZE


def test_error(lab):
    own_mounts.run(errors, lab)


def slowness(lab):
    with views(lab) as (view,):
        fd = direct(lab.host(1).view / "disk")
        buffer = aligned(b"d")
        view.switch("slow", 150)
        for call in (lambda: os.preadv(fd, [buffer], 0), lambda: os.pwritev(fd, [buffer], 0), lambda: os.fsync(fd)):
            took = OwnTime()
            call()
            assert took.wall >= 0.15 and took.seconds < 2
        took = OwnTime()
        (lab.host(1).view / "disk").stat()
        assert took.seconds < 0.15
        view.switch("slow", 600_000)
        waiting = Other("os.pread(os.open(path, os.O_RDONLY), 10, 0)", lab.host(1).view / "disk").hangs()
        view.switch("ok", 0)
        assert waiting.ends(5)
        assert waiting.popen.returncode == 0


def test_slow(lab):
    own_mounts.run(slowness, lab)


def hanging(lab):
    with views(lab) as (view,):
        path = lab.host(1).view
        fd = os.open(path / "disk", os.O_RDWR)
        view.switch("hang", 0)
        here = [
            Other("os.stat(path)", path / "disk"),
            Other("os.open(path, os.O_RDONLY)", path / "disk"),
            Other("os.listdir(path)", path),
            Other("os.statvfs(path)", path),
        ]
        writer = writes(fd)
        waiting = [other.hangs() for other in here]
        for other in waiting:
            other.popen.kill()
        os.kill(writer, signal.SIGKILL)
        assert not waiting[0].ends(0.3), "killed, and yet it waits"
        assert (lab.storage / "disk").read_bytes() == b"a" * SIZE * 4
        view.switch("ok", 0)
        assert all(other.ends(5) for other in waiting)
        os.waitpid(writer, 0)
        assert (lab.storage / "disk").read_bytes()[SIZE : SIZE * 2] == b"z" * SIZE, "a hung write lands late"


def test_hang_and_the_late_write(lab):
    own_mounts.run(hanging, lab)


def power_loss(lab):
    with views(lab) as (view,):
        path = lab.host(1).view
        fd = os.open(path / "disk", os.O_RDWR)
        view.switch("hang", 0)
        reader = Other("os.stat(path)", path / "disk").hangs()
        writer = writes(fd)
        reader.popen.kill()
        os.kill(writer, signal.SIGKILL)
        took = OwnTime()
        view.cut()
        view.cut()
        assert reader.ends(5)
        os.waitpid(writer, 0)
        assert view.server.wait(5) is not None
        assert took.seconds < 2
        assert (lab.storage / "disk").read_bytes() == b"a" * SIZE * 4, "what hung is dropped"
        assert not os.path.ismount(path)
        assert os.listdir(path) == []
        with pytest.raises(mounted_view.ViewLost):
            view.switch("ok", 0)
    with views_again(lab) as view:
        assert view.mode == "ok"
        assert (lab.host(1).view / "disk").read_bytes() == b"a" * SIZE * 4


@contextmanager
def views_again(lab):
    view = mounted_view.MountedView(lab.host(1))
    try:
        yield view
    finally:
        view.cut()
        view.server.wait(10)


def test_power_loss_ends_a_hang_and_drops_its_writes(lab):
    own_mounts.run(power_loss, lab)


def orphaned(lab):
    """The keeper is killed: the server learns it from its socket alone."""
    with views(lab) as (view,):
        view.switch("hang", 0)
        waiting = Other("os.stat(path)", lab.host(1).view / "disk").hangs()
        view._control.close()
        assert waiting.ends(5)
        assert view.server.wait(5) == 0


def test_a_server_without_its_keeper_ends(lab):
    own_mounts.run(orphaned, lab)


def unmountable(lab):
    lab.view_program.unlink()
    lab.view_program.write_text("#!/bin/sh\necho no >&2; exit 1\n")
    lab.view_program.chmod(0o755)
    mounted_view.mount_connections(lab)
    with pytest.raises(mounted_view.NoView, match="h1"):
        mounted_view.MountedView(lab.host(1))
    assert (lab.log / "view-h1.log").read_text() == "no\n"


def test_a_view_that_cannot_be_mounted(lab):
    own_mounts.run(unmountable, lab)


def test_detaching_what_is_not_mounted_is_nothing(tmp_path):
    if own_mounts.missing():
        pytest.skip(own_mounts.missing())
    mounted_view.detach(tmp_path)
    mounted_view.detach(tmp_path / "absent")
    assert ctypes.get_errno() in (errno.EINVAL, errno.ENOENT)
