"""Takes one sanlock resource and holds it until it is told to give it back: a process of its own.

It may wait, be killed by sanlock when the lockspace is lost, and be killed by whoever started it; none of that may
happen to the program that needs the resource. When it ends, however it ends, sanlock frees the resource.

This file is run by its path, isolated and without site packages, and imports next to nothing: every change of the
configuration waits for its start (8 ms of CPU; with typing, signal and random it were 25). The binding's directory is
the first argument; the others: lockspace, resource, path, offset.

* it says, a line each: ``held``; ``unformatted``; ``busy`` (once; it goes on trying); ``refused CODE TEXT``; ``free``
* it is told: ``format SECTOR`` after ``unformatted``; ``writer PID``: who writes what the resource guards; ``release``;
  ``release-after PID``: when that process is gone, whatever becomes of the other end. The end of its input, because
  the other end was killed, means ``release``, after the writer if one was named: its last write may still arrive, and
  would undo what the next one inside has written.
"""

import errno
import os
import select
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Optional

UNFORMATTED = -223
# Held by a live host, by one whose death is not certain yet, or by another process of this host.
BUSY = (-243, -244, -245, -246, errno.EEXIST, errno.EBUSY, errno.EAGAIN, errno.EALREADY)
AGAIN = 0.03  # wall seconds between two tries at most; by chance, so that two hosts do not meet for ever
SETTLED = 1.0  # wall seconds: whoever saw the place unformatted in the same moment has formatted it by then
ALIGNMENT = 1 << 20


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def told(seconds: float) -> str:
    """What came within so many seconds; ``release`` when the other end is gone. Empty: nothing."""
    if 0 not in select.select([0], [], [], seconds)[0]:
        return ""
    return os.read(0, 4096).decode("ascii", "replace").strip() or "release"


def hold(sanlock: "Any", lockspace: bytes, resource: bytes, disks: "Any") -> None:
    descriptor = sanlock.register()
    said_busy = False
    while True:
        code = tried(sanlock, lockspace, resource, disks, descriptor)
        if code == 0:
            break
        if code == UNFORMATTED:
            if not formatted(sanlock, lockspace, resource, disks):
                return
            continue
        if not said_busy:
            said_busy = True
            say("busy")
        if told(AGAIN * (1 + os.urandom(1)[0]) / 256):
            return
    say("held")
    writer = awaited(descriptor)
    if writer is None:
        return  # nobody keeps the lock any more
    while writer and is_there(writer):
        time.sleep(0.02)
    sanlock.release(lockspace, resource, disks, slkfd=descriptor)
    say("free")


def awaited(sanlock: int) -> "Optional[int]":
    """Returns when the lock shall go: the process whose end comes before that, 0 for none. None: sanlock itself is
    gone, whose socket this is."""
    writer, pending = 0, b""
    while True:
        if 0 not in select.select([0, sanlock], [], [])[0]:
            return None
        part = os.read(0, 4096)
        if not part:
            return writer
        *lines, pending = (pending + part).split(b"\n")
        for line in lines:
            word, _, pid = line.partition(b" ")
            if word == b"writer":
                writer = int(pid)
            else:
                return int(pid) if word == b"release-after" else 0


def is_there(pid: int) -> bool:
    """Not one that has ended and is only waited for: it writes nothing any more, and its parent may never ask."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b") ")[2][:1] not in (b"Z", b"X")
    except OSError:
        return False


def tried(sanlock: "Any", lockspace: bytes, resource: bytes, disks: "Any", descriptor: int) -> int:
    """0: it is ours. Raises for everything that waiting does not mend."""
    try:
        sanlock.acquire(lockspace, resource, disks, slkfd=descriptor)
    except sanlock.SanlockException as error:
        code = int(error.args[0])
        if code != UNFORMATTED and code not in BUSY:
            raise
        return code
    return 0


def formatted(sanlock: "Any", lockspace: bytes, resource: bytes, disks: "Any") -> bool:
    """Once it is allowed. False: it is not, or the other end is gone."""
    say("unformatted")
    word, _, sector = told(3600.0).partition(" ")
    if word != "format":
        return False
    sanlock.write_resource(lockspace, resource, disks, align=ALIGNMENT, sector=int(sector))
    return not told(SETTLED)


def main() -> int:
    directory, lockspace, resource, path, offset = sys.argv[1:6]
    sys.path.append(directory)  # behind the standard library: nothing else is found there
    try:
        import sanlock
    except ImportError as error:
        say(f"refused 0 {error}")
        return 1
    try:
        hold(sanlock, lockspace.encode(), resource.encode(), [(path, int(offset))])
    except sanlock.SanlockException as error:
        text = " ".join(str(part) for part in error.args[1:])
        say(f"refused {error.args[0]} {' '.join(text.split())}")
        return 1
    except BrokenPipeError:
        return 1  # nobody listens any more; sanlock frees what we hold
    return 0


if __name__ == "__main__":
    os._exit(main())  # what it says is flushed, and whoever waits for its end should not wait for the interpreter's
