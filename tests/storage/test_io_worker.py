import contextlib
import fcntl
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from ovirt_he_ha.config.clock import SystemClock
from ovirt_he_ha.storage import io_process, io_worker
from ovirt_he_ha.storage.errors import STORAGE_CODES, StorageError, StorageOverdue
from ovirt_he_ha.storage.io_process import IoFailure
from ovirt_he_ha.storage.io_worker import IoWorker
from tests.own_time import OwnTime

SLOT = 4096
SIZE = 2 << 20


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "volume"
    path.write_bytes(bytes(range(256)) * (SIZE // 256))
    return path


@pytest.fixture
def worker(path):
    worker = IoWorker(str(path), clock=SystemClock(1.0))
    yield worker
    worker.close(1)


def pid(worker):
    return worker._process.popen.pid


def gone(process_id, seconds=5.0):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            with open(f"/proc/{process_id}/stat") as file:
                if file.read().rsplit(")", 1)[1].split()[0] == "Z":
                    return True
        except FileNotFoundError:
            return True
        time.sleep(0.01)
    return False


class TestAccess:
    def test_write_and_read(self, worker, path):
        data = os.urandom(SLOT)
        worker.write(3 * SLOT, data, 5)
        assert worker.read(2 * SLOT, 2 * SLOT, 5) == bytes(range(256)) * 16 + data
        assert path.stat().st_size == SIZE
        assert worker.late_writes() == ()

    def test_a_scan_larger_than_the_buffer(self, worker, path):
        assert worker.read(0, SIZE, 5) == path.read_bytes()

    def test_probe(self, worker):
        facts = worker.probe(5)
        assert (facts.size, facts.is_device) == (SIZE, False)
        assert facts.sector_size in (512, 4096)

    @pytest.mark.parametrize(("offset", "length"), [(1, SLOT), (512, SLOT), (0, 100), (0, 0), (-SLOT, SLOT)])
    def test_a_request_off_the_grid(self, worker, offset, length):
        with pytest.raises(StorageError) as caught:
            worker.read(offset, length, 5)
        assert caught.value.code == "request"

    @pytest.mark.parametrize("size", [512, 4096])
    def test_one_sector(self, worker, path, size):
        worker.sector_size = size
        assert worker.sector(SLOT, 5) == path.read_bytes()[SLOT : SLOT + size]
        for offset in (size // 2, -size):
            with pytest.raises(StorageError) as caught:
                worker.sector(offset, 5)
            assert caught.value.code == "request"

    @pytest.mark.parametrize("length", [0, SLOT - 1, 2 * SLOT])
    def test_a_write_is_one_slot(self, worker, length):
        with pytest.raises(StorageError) as caught:
            worker.write(0, bytes(length), 5)
        assert caught.value.code == "request"

    def test_beyond_the_end(self, worker, path):
        for access in (lambda: worker.read(SIZE - SLOT, 2 * SLOT, 5), lambda: worker.write(SIZE, bytes(SLOT), 5)):
            with pytest.raises(StorageError) as caught:
                access()
            assert caught.value.code == "too-small"
        assert path.stat().st_size == SIZE

    def test_the_volume_may_vanish_and_come_back(self, worker, path):
        worker.read(0, SLOT, 5)
        path.rename(path.with_name("away"))
        with pytest.raises(StorageError) as caught:
            worker.write(0, bytes(SLOT), 5)
        assert caught.value.code == "missing"
        assert not path.exists()
        path.with_name("away").rename(path)
        worker.write(0, bytes(SLOT), 5)

    @pytest.mark.parametrize("kind", ["directory", "pipe"])
    def test_not_a_volume(self, tmp_path, kind):
        place = tmp_path / "place"
        os.mkdir(place) if kind == "directory" else os.mkfifo(place)
        worker = IoWorker(str(place), clock=SystemClock(1.0))
        with pytest.raises(StorageError) as caught:
            worker.read(0, SLOT, 5)
        worker.close(1)
        assert caught.value.code in ("not-a-volume", "no-direct-io")

    def test_sector_sizes(self, path):
        assert IoWorker(str(path), 4096).sector_size == 4096
        with pytest.raises(ValueError, match="1024"):
            IoWorker(str(path), 1024)

    def test_every_code_has_a_sentence(self):
        codes = [
            *io_process._CODES.values(),
            "io",
            "too-small",
            "short-read",
            "short-write",
            "not-a-file",
            "too-large",
            "no-direct-io",
            "request",
            "worker-died",
        ]
        assert set(codes) <= set(STORAGE_CODES)
        text = str(StorageError("io", "/volume", 5, "detail"))
        assert "/volume" in text
        assert os.strerror(5) in text


class TestElsewhere:
    """Other places of the same storage."""

    def test_as_in_this_process(self, worker, path, tmp_path):
        (tmp_path / "text").write_text("a=b\n")
        assert worker.text(str(tmp_path / "text"), 5) == b"a=b\n"
        assert worker.is_directory(str(tmp_path), 5)
        assert not worker.is_directory(str(path), 5)
        assert worker.look(str(path), 5) == io_process.look(str(path))
        for call in (worker.text, worker.look):
            with pytest.raises(StorageError) as caught:
                call(str(tmp_path / "absent"), 5)
            assert (caught.value.code, caught.value.path) == ("missing", str(tmp_path / "absent"))
        assert len(worker.read(0, SLOT, 5)) == SLOT

    def test_why_it_cannot_be_written_is_told(self, worker, path, monkeypatch):
        class ReadOnly:
            f_flag = os.ST_RDONLY

        monkeypatch.setattr(io_process.os, "statvfs", lambda _path: ReadOnly)
        assert io_process.look(str(path)).refusal == "read-only"

    def test_at_rest_there_is_no_process_and_the_next_call_has_one(self, worker):
        worker.read(0, SLOT, 5)
        before = pid(worker)
        worker.rest()
        assert gone(before)
        worker.rest()
        assert len(worker.read(0, SLOT, 5)) == SLOT
        assert pid(worker) != before


class TestHang:
    def test_it_holds_no_output_of_ours(self, worker):
        """Hung in the kernel it would hold a pipe, and whoever reads that waits for its end."""
        worker.read(0, SLOT, 5)
        ours = {os.readlink(f"/proc/self/fd/{number}") for number in (1, 2)} - {os.devnull}
        handles = f"/proc/{pid(worker)}/fd"
        theirs = [os.readlink(f"{handles}/{number}") for number in os.listdir(handles)]
        assert theirs.count(os.devnull) == 3 and not ours & set(theirs)

    def test_a_hung_process_is_replaced(self, worker):
        worker.read(0, SLOT, 5)
        hung = pid(worker)
        os.kill(hung, signal.SIGSTOP)
        took = OwnTime()
        with pytest.raises(StorageOverdue) as caught:
            worker.read(0, SLOT, 0.3)
        assert caught.value.code == "overdue"
        assert took.seconds < 2
        assert gone(hung)
        assert worker.abandoned == 0
        assert len(worker.read(0, SLOT, 5)) == SLOT

    def test_two_that_cannot_be_killed(self, worker, monkeypatch):
        left = []
        try:
            for offset in (0, SLOT):
                worker.probe(5)
                process = worker._process.popen
                left.append(process.pid)
                monkeypatch.setattr(process, "kill", lambda: None)
                os.kill(process.pid, signal.SIGSTOP)
                with pytest.raises(StorageOverdue):
                    worker.write(offset, bytes(SLOT), 0.1)
            assert worker.abandoned == 2
            assert worker.late_writes() == (0, SLOT)
            took = OwnTime()
            with pytest.raises(StorageOverdue) as caught:
                worker.read(0, SLOT, 5)
            assert caught.value.code == "stuck"
            assert took.seconds < 1
            os.kill(left[0], signal.SIGCONT)  # the storage came back: the process finds nobody to answer, and ends
            assert gone(left[0])
            assert len(worker.read(0, SLOT, 5)) == SLOT
            assert worker.abandoned == 1
            os.kill(left[1], signal.SIGCONT)
            assert gone(left[1])
            worker.read(0, SLOT, 5)
            assert not any(os.path.exists(f"/proc/{each}") for each in left)  # reaped, not only dead
        finally:
            for each in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(each, signal.SIGKILL)

    def test_close_does_not_wait_for_a_hung_process(self, worker):
        worker.read(0, SLOT, 5)
        hung = pid(worker)
        os.kill(hung, signal.SIGSTOP)
        took = OwnTime()
        worker.close(1)
        assert took.seconds < 2.5
        assert gone(hung)
        with pytest.raises(StorageError) as caught:
            worker.read(0, SLOT, 1)
        assert caught.value.code == "closed"

    def test_close_while_another_thread_waits(self, worker):
        worker.read(0, SLOT, 5)
        os.kill(pid(worker), signal.SIGSTOP)
        errors = []

        def use():
            try:
                worker.read(0, SLOT, 1.0)
            except StorageError as error:
                errors.append(error.code)

        user = threading.Thread(target=use)
        user.start()
        while not worker._turn.locked():
            time.sleep(0.001)
        worker.close(0.1)
        user.join(5)
        assert errors == ["overdue"]

    def test_waiting_for_ones_turn_counts(self, worker):
        worker.read(0, SLOT, 5)
        with worker._turn, pytest.raises(StorageOverdue):
            worker.read(0, SLOT, 0.05)

    def test_a_killed_process_is_an_error_and_then_replaced(self, worker):
        worker.read(0, SLOT, 5)
        os.kill(pid(worker), signal.SIGKILL)
        with pytest.raises(StorageError) as caught:
            worker.read(0, SLOT, 5)
        assert caught.value.code == "worker-died"
        assert len(worker.read(0, SLOT, 5)) == SLOT

    def test_an_answer_that_nobody_read_is_not_the_next_ones(self, worker, path, monkeypatch):
        """Whatever breaks off a call (no memory, a signal's exception) leaves an answer behind."""
        worker.write(5 * SLOT, b"5" * SLOT, 5)
        receive, broken = io_worker._receive, []

        def break_off(*arguments):
            if not broken:
                broken.append(1)
                raise MemoryError
            return receive(*arguments)

        monkeypatch.setattr(io_worker, "_receive", break_off)
        with pytest.raises(MemoryError):
            worker.read(0, SLOT, 5)
        assert worker.read(5 * SLOT, SLOT, 5) == b"5" * SLOT

    def test_a_part_of_what_was_asked_for_is_an_error(self, worker, monkeypatch):
        monkeypatch.setattr(worker, "_call", lambda *_: bytes(SLOT - 512))
        with pytest.raises(StorageError) as caught:
            worker.read(0, SLOT, 5)
        assert caught.value.code == "io"

    def test_signals_of_the_group_do_not_end_it(self, worker):
        worker.read(0, SLOT, 5)
        before = pid(worker)
        for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            os.kill(before, each)
        worker.read(0, SLOT, 5)
        assert pid(worker) == before

    def test_it_ends_with_the_daemon(self, path):
        first, second = os.pipe()
        child = os.fork()
        if child == 0:
            worker = IoWorker(str(path), clock=SystemClock(1.0))
            worker.read(0, SLOT, 5)
            os.write(second, str(pid(worker)).encode())
            os.kill(os.getpid(), signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(second)
        orphan = int(os.read(first, 20))
        os.close(first)
        assert gone(orphan)

    def test_many_threads_take_turns(self, worker):
        data = [bytes([number]) * SLOT for number in range(8)]

        def use(number):
            for _ in range(5):
                worker.write(number * SLOT, data[number], 10)
                assert worker.read(number * SLOT, SLOT, 10) == data[number]

        threads = [threading.Thread(target=use, args=(number,)) for number in range(8)]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
        assert worker.read(0, 8 * SLOT, 5) == b"".join(data)


class TestProcess:
    """The file operations, in this process."""

    def test_short_writes_are_repeated_as_a_whole(self, path, monkeypatch):
        real, results = os.pwritev, iter([512, 512, None])

        def pwritev(handle, buffers, offset):
            short = next(results)
            return short if short else real(handle, buffers, offset)

        monkeypatch.setattr(io_process.os, "pwritev", pwritev)
        io_process.direct_write(str(path), 0, b"x" * SLOT)
        assert path.read_bytes()[:SLOT] == b"x" * SLOT

    def test_short_writes_for_ever_are_an_error(self, path, monkeypatch):
        monkeypatch.setattr(io_process.os, "pwritev", lambda *_: 512)
        with pytest.raises(IoFailure) as caught:
            io_process.direct_write(str(path), 0, b"x" * SLOT)
        assert caught.value.code == "short-write"

    def test_short_reads_are_continued(self, path, monkeypatch):
        real = os.preadv
        monkeypatch.setattr(
            io_process.os, "preadv", lambda handle, buffers, offset: real(handle, [buffers[0][:700]], offset)
        )
        monkeypatch.setattr(io_process.os, "O_DIRECT", 0)
        assert io_process.direct_read(str(path), SLOT, 2 * SLOT) == path.read_bytes()[SLOT : 3 * SLOT]

    def test_less_than_a_sector_is_a_short_read_where_the_volume_goes_on(self, path, monkeypatch):
        monkeypatch.setattr(io_process.os, "preadv", lambda *_: 100)
        with pytest.raises(IoFailure) as caught:
            io_process.direct_read(str(path), 0, SLOT)
        assert caught.value.code == "short-read"
        with pytest.raises(IoFailure) as caught:
            io_process.direct_read(str(path), SIZE - SLOT, 2 * SLOT)
        assert caught.value.code == "too-small"

    def test_files_that_are_none_or_too_large_are_not_read(self, tmp_path):
        (tmp_path / "large").write_bytes(bytes(io_process.MOST_TEXT + 1))
        os.mkfifo(tmp_path / "pipe")
        for name, code in (("large", "too-large"), ("pipe", "not-a-file"), ("absent", "missing"), (".", "not-a-file")):
            with pytest.raises(IoFailure) as caught:
                io_process.text(str(tmp_path / name))
            assert caught.value.code == code

    @pytest.mark.parametrize(("error", "code"), [(5, "io"), (22, "sector-size"), (28, "full"), (116, "stale")])
    def test_errors_have_codes(self, path, monkeypatch, error, code):
        def fail(*_):
            raise OSError(error, "x")

        monkeypatch.setattr(io_process.os, "preadv", fail)
        monkeypatch.setattr(io_process.os, "pwritev", fail)
        for access in (
            lambda: io_process.direct_read(str(path), 0, SLOT),
            lambda: io_process.direct_write(str(path), 0, bytes(SLOT)),
        ):
            with pytest.raises(IoFailure) as caught:
                access()
            assert (caught.value.code, caught.value.error) == (code, error)

    def test_a_small_volume_can_be_probed(self, tmp_path):
        (tmp_path / "small").write_bytes(b"x")
        assert io_process.probe(str(tmp_path / "small"))[0] == 1


# --- its start --------------------------------------------------------------------------------------------------------


def test_what_lies_beside_it_hides_nothing_and_nothing_is_left_there(tmp_path, monkeypatch):
    """It is imported, so that it need not be compiled; by a process that may be root's."""
    place = tmp_path / "installed"
    place.mkdir()
    program = place / "io_process.py"
    program.write_bytes(Path(io_process.__file__).read_bytes())
    for name in ("struct", "mmap", "stat", "os", "errno", "fcntl"):
        (place / f"{name}.py").write_text("raise SystemExit('the wrong module')\n")
    before = sorted(each.name for each in place.iterdir())
    volume = tmp_path / "volume"
    volume.write_bytes(b"x" * 8192)
    monkeypatch.setattr(io_process, "__file__", str(program))
    worker = IoWorker(str(volume))
    try:
        assert worker.read(4096, 4096, 5) == b"x" * 4096
    finally:
        worker.close(1)
    assert sorted(each.name for each in place.iterdir()) == before


def test_what_was_written_is_on_the_volume_when_a_write_returns(tmp_path):
    """And no cache of this host is between."""
    volume = tmp_path / "volume"
    volume.write_bytes(bytes(4096))
    handle = io_process.open_direct(str(volume), os.O_WRONLY)
    try:
        flags = fcntl.fcntl(handle, fcntl.F_GETFL)
    finally:
        os.close(handle)
    assert flags & os.O_DSYNC and flags & os.O_DIRECT
