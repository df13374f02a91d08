"""One fake clock for several processes of a host, restarted ones included.

A process with libfaketime preloaded counts from its own start, so two of them disagree, and a restarted one has lost
time. libfaketime's own wrapper `faketime` puts the start into shared memory for its children. We let it make that,
learn its name, and end the wrapper with SIGKILL: ended in order it would remove it again. Measured: processes that
started seconds apart agree within 1 ms of fake time. The memory goes with the host's own /dev/shm.
"""

import glob
import os
import signal
import subprocess
from typing import Dict

from ovirt_he_ha.lab.layout import LabError

LIBRARY = ("/usr/lib/*/faketime/libfaketimeMT.so.1", "/usr/lib64/faketime/libfaketimeMT.so.1")


class NoFaketime(LabError):
    def __init__(self, what: str) -> None:
        super().__init__(f"{what} is missing (package faketime; EL9: libfaketime): install it, or use --time-scale 1.")


def faketime_library() -> str:
    """Raises NoFaketime."""
    for pattern in LIBRARY:
        for path in sorted(glob.glob(pattern)):
            return path
    raise NoFaketime("libfaketimeMT.so.1")


def make_clock(scale: float) -> Dict[str, str]:
    """The environment of a process that lives by a new clock running ``scale`` times faster; empty for 1. To be called
    once per boot, in the mount namespace of the processes. Raises NoFaketime."""
    if scale == 1:
        return {}
    library, speed = faketime_library(), f"+0 x{scale:g}"
    words = ["faketime", "-m", "-f", speed, "sh", "-c", 'echo "$FAKETIME_SHARED"; exec sleep 60']
    try:
        wrapper = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, start_new_session=True)
    except FileNotFoundError as e:
        raise NoFaketime("faketime") from e
    with wrapper:
        assert wrapper.stdout is not None
        shared = wrapper.stdout.readline().strip()
        os.killpg(wrapper.pid, signal.SIGKILL)  # at once with its child: it waits for that one's end
    if not shared:
        raise NoFaketime("a faketime that shares its clock")
    return {"LD_PRELOAD": library, "FAKETIME": speed, "FAKETIME_SHARED": shared}
