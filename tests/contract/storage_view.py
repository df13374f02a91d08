"""A storage that really hangs, fails or is slow: a FUSE view of a directory, told from one moment to the next."""

import contextlib
import os
import shutil
import socket
import subprocess
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[2] / "ovirt_he_ha" / "lab" / "native" / "storage_view.c"


def missing_component():
    """What this machine lacks, or an empty text."""
    if os.geteuid() != 0:
        return "root"
    if not os.path.exists("/dev/fuse"):
        return "/dev/fuse"
    for program in ("gcc", "pkg-config", "fusermount3"):
        if shutil.which(program) is None:
            return program
    if subprocess.run(["pkg-config", "--exists", "fuse3"]).returncode:
        return "libfuse3-dev"
    return "" if SOURCE.exists() else str(SOURCE)


def build(directory):
    target = directory / "storage_view"
    flags = subprocess.run(
        ["pkg-config", "--cflags", "--libs", "fuse3"], check=True, capture_output=True, text=True
    ).stdout.split()
    subprocess.run(["gcc", "-O1", "-pthread", "-o", target, SOURCE, *flags], check=True, timeout=120)
    return target


class StorageView:
    """``mountpoint`` shows ``directory``. While it hangs, whoever touches it sleeps in the kernel and cannot be
    killed; ``close`` ends that, and so does the end of this process."""

    def __init__(self, program, directory, mountpoint):
        self.mountpoint = mountpoint
        ours, theirs = socket.socketpair()
        with theirs:
            self.server = subprocess.Popen(
                [program, directory, mountpoint, str(theirs.fileno())], pass_fds=[theirs.fileno()]
            )
        self.control = ours
        self.control.settimeout(10)
        self.answers = ours.makefile("rb")
        assert self.answers.readline() == b"ready\n"

    def set(self, mode):
        """``ok``, ``hang``, ``error`` or ``slow MILLISECONDS``; in force on return."""
        self.control.sendall(mode.encode() + b"\n")
        assert self.answers.readline(), "the view has ended"

    def close(self):
        with contextlib.suppress(OSError):
            self.set("ok")
        self.answers.close()
        self.control.close()
        try:
            self.server.wait(10)
        except subprocess.TimeoutExpired:
            self.server.kill()
            self.server.wait(10)
        subprocess.run(["umount", "--lazy", self.mountpoint], capture_output=True, timeout=10)
