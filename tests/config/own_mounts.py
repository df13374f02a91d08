"""A mount namespace of a test's own: file systems that are full or read-only, and nothing of it on the machine."""

import ctypes
import os
import threading
from pathlib import Path
from typing import Callable, List, TypeVar

import pytest

T = TypeVar("T")

CLONE_NEWNS = 0x00020000
MS_RDONLY, MS_REMOUNT, MS_REC, MS_PRIVATE = 1, 32, 16384, 1 << 18
_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int) -> None:
    if result != 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))


def _mount(target: str, kind: str, flags: int, options: str = "") -> None:
    _check(
        _libc.mount(b"none", target.encode(), kind.encode() or None, ctypes.c_ulong(flags), options.encode() or None)
    )


class SmallDisk:
    """A file system of 64 KiB at ``path``; what was in the directory is there as well."""

    def __init__(self, path: Path) -> None:
        self.path = path
        before = {each.name: each.read_bytes() for each in path.iterdir() if each.is_file()}
        _mount(str(path), "tmpfs", 0, "size=64k,nr_inodes=32")
        for name, data in before.items():
            (path / name).write_bytes(data)

    def fill(self) -> None:
        with open(self.path / "ballast", "wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(4096))
            except OSError:
                return

    def fill_inodes(self) -> None:
        try:
            for number in range(64):
                (self.path / f"ballast{number}").touch()
        except OSError:
            return

    def empty(self) -> None:
        for each in self.path.glob("ballast*"):
            each.unlink()

    def read_only(self, on: bool = True) -> None:
        _mount(str(self.path), "", MS_REMOUNT | (MS_RDONLY if on else 0))


def with_small_disk(path: Path, function: Callable[[SmallDisk], T]) -> T:
    """``function`` on a thread (and those that it starts) for which ``path`` is a small disk. What it raises comes out
    here. Skips where namespaces are not allowed."""
    results: List[T] = []
    problems: List[BaseException] = []

    def inside() -> None:
        try:
            _check(_libc.unshare(CLONE_NEWNS))
            _mount("/", "", MS_REC | MS_PRIVATE)
        except OSError as e:
            problems.append(PermissionError(e.errno, "mount namespaces"))
            return
        try:
            results.append(function(SmallDisk(path)))
        except BaseException as e:
            problems.append(e)

    thread = threading.Thread(target=inside)
    thread.start()
    thread.join(60)
    assert not thread.is_alive()
    if problems and isinstance(problems[0], PermissionError) and problems[0].strerror == "mount namespaces":
        pytest.skip("CAP_SYS_ADMIN is missing: no mount namespace of its own")
    if problems:
        raise problems[0]
    return results[0]
