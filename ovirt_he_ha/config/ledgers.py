"""Ledgers on disk: this host's, and copies of other hosts' that somebody brought here."""

import os
import stat
from pathlib import Path
from typing import Dict, Iterable, List, NamedTuple, Sequence

from ovirt_he_ha.config.text import PathLike
from ovirt_he_ha.core.ledger import Entry, NotALine, decode

SHARE = 512 * 1024  # bytes of one file; there are two of them
_MOST = 16 * SHARE  # bytes that a file given by hand may have: lines of several hosts in one
_MOST_NAMED = 100  # lines of one file that are named when they cannot be read; the others are counted
_NAME = "ledger.jsonl"


class LedgerProblem(Exception):
    """One line: the file, and what is expected of it."""

    msg = "{path}: expected {expected}, found {found}"

    def __init__(self, path: PathLike, expected: str, found: str) -> None:
        super().__init__(self.msg.format(path=path, expected=expected, found=found))
        self.path = str(path)


class Skipped(NamedTuple):
    """A line that could not be read. ``line`` counts from 1. ``more``: so many after it are not named."""

    path: str
    line: int
    why: str
    more: int = 0


class Read(NamedTuple):
    entries: List[Entry]
    skipped: List[Skipped]


def older(path: Path) -> Path:
    """Where a ledger that is full goes: ``ledger.1.jsonl`` beside ``ledger.jsonl``."""
    return path.with_name(f"{path.stem}.1{path.suffix}")


def read_own(path: Path) -> Read:
    """Both files of one ledger, the older first; one that is missing is empty. Raises LedgerProblem."""
    return _together([each for each in (older(path), path) if os.path.lexists(each)])


def read_given(paths: Iterable[PathLike]) -> Read:
    """Files, and directories with the ledger's two files in them. Raises LedgerProblem: missing, unreadable, without
    a single line of a ledger."""
    found: List[Path] = []
    for each in map(Path, paths):
        if os.path.isdir(each):  # pathlib's raises for a name that is too long
            here = [path for path in (older(each / _NAME), each / _NAME) if path.exists()]
            if not here:
                raise LedgerProblem(each, f"{_NAME} in it", "none")
            found += here
        else:
            found.append(each)
    for path in found:
        if not _file(path).entries:
            raise LedgerProblem(path, "the lines of a host's ledger", "none")
    return _together(found)


def by_host(entries: Iterable[Entry]) -> Dict[int, List[Entry]]:
    """Each host's lines in their order, none twice. Raises LedgerProblem where two of a host contradict: they are of
    different ledgers."""
    numbered: Dict[int, Dict[int, Entry]] = {}
    for entry in entries:
        lines = numbered.setdefault(entry.host_id, {})
        if lines.setdefault(entry.number, entry) != entry:
            raise LedgerProblem(
                f"host {entry.host_id}", "one ledger", f"two different lines with the number {entry.number}"
            )
    return {host_id: [lines[number] for number in sorted(lines)] for host_id, lines in sorted(numbered.items())}


def _together(paths: Sequence[Path]) -> Read:
    read = [_file(path) for path in paths]
    return Read([e for each in read for e in each.entries], [s for each in read for s in each.skipped])


def _file(path: Path) -> Read:
    entries: List[Entry] = []
    skipped: List[Skipped] = []
    for number, line in enumerate(_bytes(path).split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            entries.append(decode(line))
        except NotALine as problem:
            if len(skipped) < _MOST_NAMED:
                skipped.append(Skipped(str(path), number, problem.why))
            else:
                skipped[-1] = skipped[-1]._replace(more=skipped[-1].more + 1)
    return Read(entries, skipped)


def _bytes(path: Path) -> bytes:
    expected = f"a readable file of at most {_MOST} bytes"
    try:
        # O_NONBLOCK: a pipe in the place of a file must not hang the command
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise LedgerProblem(path, expected, "something else")
            if status.st_size > _MOST:
                raise LedgerProblem(path, expected, f"{status.st_size} bytes")
            return file.read(_MOST)
    except OSError as error:
        raise LedgerProblem(path, expected, error.strerror or type(error).__name__) from None
