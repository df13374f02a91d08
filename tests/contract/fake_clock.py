"""What libfaketime leaves when its process is killed."""

import os
from contextlib import suppress


def forget(pid):
    """Remove the shared memory of a killed process: a later process with its number could not start."""
    for name in (f"faketime_shm_{pid}", f"sem.faketime_sem_{pid}"):
        with suppress(FileNotFoundError):
            os.unlink(f"/dev/shm/{name}")
