"""Recordings on disk: a directory of numbered segments (the agent's ring), or one file taken from somewhere."""

import os
import re
import stat
from pathlib import Path
from typing import Iterator, List, Optional, Tuple, Union

from ovirt_he_ha.config.text import PathLike
from ovirt_he_ha.core import recording
from ovirt_he_ha.core.frames import Damage, NotARecording
from ovirt_he_ha.core.recording import RecordedCycle

MAX_SIZE = 1 << 30  # bytes of one file; the largest ring that can be configured has a quarter
_SEGMENT = re.compile(r"cycles-([0-9]{1,12})\.rec")


class RecordingError(Exception):
    """A file that is no recording, or cannot be read. One line: the file, and what is expected."""

    msg = "{path}: {problem}"

    def __init__(self, path: PathLike, problem: str) -> None:
        super().__init__(self.msg.format(path=path, problem=problem))
        self.path = str(path)
        self.problem = problem


def segment_name(number: int) -> str:
    return f"cycles-{number:08d}.rec"


def segments(directory: PathLike) -> List[Tuple[int, Path]]:
    """The segments of a ring, the oldest first. Raises OSError."""
    found = []
    for name in os.listdir(directory):
        match = _SEGMENT.fullmatch(name)
        if match:
            found.append((int(match.group(1)), Path(directory) / name))
    return sorted(found)


def load(path: PathLike) -> Iterator[Tuple[Path, Union[RecordedCycle, Damage]]]:
    """Every cycle of a file, or of a directory's segments, in their order, and what could not be read, each with its
    file. Nothing is written. Raises RecordingError: missing, unreadable, a directory without a segment."""
    if not os.path.isdir(path):
        yield from _file(Path(path))
        return
    try:
        found = segments(path)
    except OSError as error:
        raise RecordingError(path, f"expected a readable directory, found {error.strerror}") from None
    if not found:
        raise RecordingError(path, f"expected segments such as {segment_name(1)}, found none")
    for _, segment in found:
        if segment.exists():  # the agent removes the oldest while we read
            yield from _file(segment)


def _file(path: Path) -> Iterator[Tuple[Path, Union[RecordedCycle, Damage]]]:
    data = _bytes(path)
    try:
        for item in recording.read(data):
            yield path, item
    except NotARecording as error:
        yield path, Damage(error.offset, error.expected, error.found, len(data))


def _bytes(path: Path) -> bytes:
    problem: Optional[str]
    try:
        # O_NONBLOCK: a pipe in the place of a file must not hang the command
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(handle, "rb") as file:
            status = os.fstat(file.fileno())
            if stat.S_ISREG(status.st_mode) and status.st_size <= MAX_SIZE:
                return file.read(MAX_SIZE)
            problem = f"{status.st_size} bytes" if stat.S_ISREG(status.st_mode) else "something else"
    except OSError as error:
        problem = error.strerror or type(error).__name__
    raise RecordingError(path, f"expected a readable file of at most {MAX_SIZE} bytes, found {problem}")
