"""What an external command says: read while it runs, kept within bounds, and waited for no longer than for itself."""

import os
from contextlib import suppress
from typing import Iterator, List, Sequence, Tuple

MOST = 4 << 20  # bytes that are kept; a report of 10,000 volumes has 2 MiB
HEAD = TAIL = 64 << 10  # bytes that are kept of the beginning, and of the end, of more
PART = 64 << 10  # bytes of one read: what a pipe takes
PARTS = 16  # reads at a time: nothing can be so fast that nobody looks at the clock


class Output:
    """One output of one command, a pipe. ``writer`` is the command's end; ``begun`` closes ours of it."""

    def __init__(self) -> None:
        self._reader, self.writer = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self._reader, False)
        self._head = b""
        self._kept = bytearray()

    def fileno(self) -> int:
        return self._reader

    @property
    def is_cut(self) -> bool:
        """What is left is the beginning and the end of too much."""
        return bool(self._head)

    def begun(self) -> None:
        if self.writer >= 0:
            os.close(self.writer)
            self.writer = -1

    def take(self) -> bool:
        """What is there now. False: nobody can add to it any more."""
        for _ in range(PARTS):
            try:
                part = os.read(self._reader, PART)
            except BlockingIOError:
                return True
            if not part:
                return False
            self._kept += part
            if len(self._kept) > MOST and not self._head:
                self._head = bytes(self._kept[:HEAD])
            if self._head:
                del self._kept[:-TAIL]
        return True

    def text(self) -> str:
        parts = (self._head, b"\n...\n", self._kept) if self._head else (self._kept,)
        return b"".join(parts).decode("utf-8", "replace")

    def close(self) -> None:
        self.begun()
        os.close(self._reader)


def holders(outputs: Sequence[Output]) -> List[int]:
    """The processes that have one of ``outputs`` as their standard output or error: children of the command, also such
    as began a session of their own. One that became a daemon as it should has closed them, and is not among them."""
    wanted = {(found.st_dev, found.st_ino) for found in (os.fstat(each.fileno()) for each in outputs)}
    return [pid for pid, place in _standard_outputs() if place in wanted and pid != os.getpid()]


def _standard_outputs() -> Iterator[Tuple[int, Tuple[int, int]]]:
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        for number in (1, 2):
            with suppress(OSError):  # it has ended, or has none
                found = os.stat(f"/proc/{name}/fd/{number}")
                yield int(name), (found.st_dev, found.st_ino)
