"""Takes one sanlock resource and holds it until it is told to give it back: a process of its own.

It may wait, be killed by sanlock when the lockspace is lost, and be killed by whoever started it; none of that may
happen to the program that needs the resource. When it ends, however it ends, sanlock frees the resource.

This file is run by its path, isolated and without site packages, and imports next to nothing: every change of the
configuration waits for its start (8 ms of CPU; with typing, signal and random it were 25). The binding's directory is
the first argument; the others: lockspace, resource, path, offset.

* it says, a line each: ``held``; ``unformatted``; ``busy`` (once; it goes on trying); ``refused CODE TEXT``; ``free``
* it is told: ``format SECTOR`` after ``unformatted``; ``release``; ``release-after PID``: when that process is gone,
  whatever becomes of the other end. The end of its input means ``release``.
"""

import errno
import os
import select
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

UNFORMATTED = -223
# Held by a live host, by one whose death is not certain yet, or by another process of this host.
BUSY = (-243, -244, -245, -246, errno.EEXIST, errno.EBUSY, errno.EAGAIN, errno.EALREADY)
AGAIN = 0.03  # wall seconds between two tries at most; by chance, so that two hosts do not meet for ever
SETTLED = 1.0  # wall seconds: whoever saw the place unformatted in the same moment has formatted it by then
ALIGNMENT = 1 << 20


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def told(seconds: float, sanlock: int = -1) -> str:
    """What came within so many seconds; ``release`` when the other end is gone. Empty: nothing, or sanlock itself is
    gone, whose socket this is."""
    if 0 not in select.select([0] if sanlock < 0 else [0, sanlock], [], [], seconds)[0]:
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
    word, _, pid = told(1e6, descriptor).partition(" ")
    if not word:
        return  # nobody keeps the lock any more
    if word == "release-after":
        while os.path.exists(f"/proc/{int(pid)}"):
            time.sleep(0.2)
    sanlock.release(lockspace, resource, disks, slkfd=descriptor)
    say("free")


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
