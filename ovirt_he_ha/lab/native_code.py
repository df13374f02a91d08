"""What the lab compiles for itself: the watchdog device preloaded into wdmd, and the server of storage views."""

import os
import shutil
import stat
from pathlib import Path
from typing import List

from ovirt_he_ha.lab.layout import Lab, LabError
from ovirt_he_ha.lab.network import CommandFailed, run

SOURCES = Path(__file__).parent / "native"
FUSE_DEVICE = Path("/dev/fuse")
COMPILER = ("gcc", "-std=gnu11", "-O2", "-Wall", "-Wextra")


class NoFuse(LabError):
    def __init__(self) -> None:
        super().__init__(
            f"{FUSE_DEVICE} is missing: the kernel has no FUSE, or this container was not given the device. The lab's "
            "hosts see their storage through it."
        )


class NotBuilt(LabError):
    def __init__(self, source: str, packages: str, why: str) -> None:
        super().__init__(f"{source} cannot be compiled (packages {packages}): {why}")


def check_fuse() -> None:
    """Raises NoFuse."""
    if not FUSE_DEVICE.exists() or not stat.S_ISCHR(FUSE_DEVICE.stat().st_mode):
        raise NoFuse()


def build(lab: Lab) -> None:
    """Both programs, into the lab's directory. Takes about a second. Raises NotBuilt."""
    lab.native.mkdir(parents=True, exist_ok=True)
    build_device(lab.watchdog_library)
    build_view(lab.view_program)


def build_device(target: Path) -> None:
    compile_source("watchdog_device.c", target, ["-shared", "-fPIC"], ["-ldl"], "gcc libc6-dev")


def build_view(target: Path) -> None:
    packages = "gcc libc6-dev libfuse3-dev pkg-config; EL9: gcc glibc-devel fuse3-devel pkgconf-pkg-config"
    try:
        flags = run(["pkg-config", "--cflags", "--libs", "fuse3"]).split()
    except (OSError, CommandFailed) as e:
        raise NotBuilt("storage_view.c", packages, str(e)) from e
    compile_source("storage_view.c", target, ["-pthread"], flags, packages)


def compile_source(name: str, target: Path, before: List[str], after: List[str], packages: str) -> None:
    if shutil.which(COMPILER[0]) is None:
        raise NotBuilt(name, packages, f"there is no {COMPILER[0]}")
    temporary = target.with_name(target.name + ".new")
    try:
        run([*COMPILER, *before, "-o", str(temporary), str(SOURCES / name), *after])
    except CommandFailed as e:
        raise NotBuilt(name, packages, str(e)) from e
    os.chmod(temporary, 0o755)  # noqa: S103 (the hosts' processes read it)
    temporary.rename(target)
