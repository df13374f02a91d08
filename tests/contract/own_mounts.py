"""Running a piece of a test as root in a mount namespace of its own: what it mounts ends with it."""

import ctypes
import multiprocessing
import os
import subprocess
import traceback

MOUNTS = 0x00020000  # CLONE_NEWNS
LIMIT = 60.0


def missing():
    """What this machine lacks for it."""
    if os.geteuid() != 0:
        return "needs root: it mounts file systems in a namespace of its own"
    return ""


def run(body, *arguments):
    """Call ``body`` in a child process; its assertion errors, or any other, fail the test."""
    context = multiprocessing.get_context("fork")
    reader, writer = context.Pipe(duplex=False)
    child = context.Process(target=_child, args=(writer, body, arguments))
    child.start()
    writer.close()
    try:
        failure = reader.recv() if reader.poll(LIMIT) else f"no end within {LIMIT:.0f} s"
    except EOFError:
        failure = "the process ended without a word"
    finally:
        child.join(5)
        if child.is_alive():
            child.kill()
            child.join()
    assert not failure, failure


def _child(writer, body, arguments):
    try:
        if ctypes.CDLL(None, use_errno=True).unshare(MOUNTS):
            raise OSError(ctypes.get_errno(), "unshare")
        subprocess.run(["mount", "--make-rprivate", "/"], check=True)
        body(*arguments)
        writer.send("")
    except BaseException:
        writer.send(traceback.format_exc())
