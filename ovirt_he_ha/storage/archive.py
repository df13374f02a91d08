"""The configuration volume: an uncompressed tar archive of exactly 20,480 bytes at its beginning.

The engine reads exactly that size, so nothing else may be written. All five members are required.
"""

import os
import time
from pathlib import Path
from typing import Callable, Dict, Mapping, Optional, Protocol, Tuple, Union

from ovirt_he_ha.storage.archive_journal import AREA, JOURNAL, SIZE, entry, previous_copy, whole, written_over
from ovirt_he_ha.storage.io_process import IoFailure, direct_read, direct_write
from ovirt_he_ha.storage.tar import BLOCK, TarDamage, header, is_header, member, padded

__all__ = ["AREA", "SIZE"]

MEMBERS = ("version", "fhanswers.conf", "hosted-engine.conf", "broker.conf", "vm.conf")
END = 2 * BLOCK  # two blocks of zeros end a tar archive
CAPACITY = SIZE - END - len(MEMBERS) * BLOCK  # 16,896 bytes of content, each member rounded up to 512

DAMAGED = ("empty", "not-an-archive", "truncated", "member-missing")  # codes of what can be read and is no archive

PathLike = Union[str, Path]


class ArchiveBytes(Protocol):
    """The beginning of the configuration volume at ``path``. Both methods may fail: IoFailure."""

    path: str

    def read(self, length: int) -> bytes:
        """Exactly so many bytes; ``too-small`` when the volume has fewer."""
        ...

    def write(self, data: bytes, offset: int) -> None:
        """On the volume when it returns."""
        ...


class BytesHere(ArchiveBytes):
    """In this process, which hangs with the storage: for the lab, tests and tools that may."""

    def __init__(self, path: PathLike) -> None:
        self.path = str(path)

    def read(self, length: int) -> bytes:
        return direct_read(self.path, 0, length)

    def write(self, data: bytes, offset: int) -> None:
        direct_write(self.path, offset, data)


Place = Union[PathLike, ArchiveBytes]


class ArchiveError(Exception):
    """``code``: ``empty``, ``not-an-archive``, ``truncated`` (it goes on where 20,480 bytes end), ``member-missing``,
    ``too-large``, ``changed``, ``not-written``, ``late-write`` (given up: it may still arrive), ``no-copy``,
    ``superseded`` (by a writer that keeps no copy), ``lock`` (who else may change it is not known: see the
    detail), or that of the failed access (``missing``, ``no-access``,
    ``too-small``, ``overdue``, ...)."""

    msg = "{path}: configuration archive: {detail}"

    def __init__(self, code: str, detail: str, path: str = "") -> None:
        super().__init__(code, detail, path)
        self.code = code
        self.detail = detail
        self.path = path

    def __str__(self) -> str:
        return self.msg.format(path=self.path or "archive", detail=self.detail)


def read_archive(place: Place) -> Dict[str, bytes]:
    """Member name -> content; as it was before a change that was cut off half way. With a path: direct I/O that may
    hang with the storage. Raises ArchiveError."""
    volume = _opened(place)
    return _located(volume.path, _read(volume))


def write_archive(
    place: Place,
    members: Mapping[str, bytes],
    previous: Optional[Mapping[str, bytes]] = None,
    force: bool = False,
    settle: float = 0.0,
    still: Callable[[], None] = lambda: None,
) -> None:
    """Put the five members in place of what is there: nothing is truncated, what was there is kept beside it (see
    ``archive_journal``), and the bytes are read back from the volume.

    ``previous``: what the caller read before it changed a member; if the volume holds something else by now, another
    host was faster: ``changed``, read again. ``settle``: wall seconds after which the volume is read once more: a host
    that takes no lock and compared in the same moment writes, too, and the one that was overwritten learns it then
    (``changed``). ``still()`` is called in the instant before the write, and raises what forbids it.
    Without ``force`` a volume that holds neither zeros nor an archive is not
    touched (``not-an-archive``). With a path it may hang with the storage. Raises ArchiveError.
    """
    data = build_archive(members)
    volume = _opened(place)
    stored = _stored(volume)
    present = whole(stored)
    if not force:
        _refuse_foreign(volume.path, present)
    if previous is not None and _located(volume.path, present) != dict(previous):
        raise ArchiveError("changed", "another host changed it meanwhile: read it again, then repeat", volume.path)
    still()
    try:
        _keep(volume, stored, present, data)
        volume.write(data, 0)
    except IoFailure as failure:
        raise _failed(volume.path, failure) from failure
    if _read(volume) != data:
        raise ArchiveError(
            "not-written", "what was read back is not what was written: another writer, or a defect", volume.path
        )
    if settle > 0:
        time.sleep(settle)
        if _read(volume) != data:
            raise ArchiveError(
                "changed", "another host changed it at the same time: read it again, then repeat", volume.path
            )


def _keep(volume: ArchiveBytes, stored: bytes, present: bytes, data: bytes) -> None:
    if stored[:SIZE] != present:
        volume.write(present, 0)  # undone for good, before what tells how to undo it is overwritten
    if len(stored) >= AREA and present.count(0) != len(present):
        volume.write(entry(present, data), JOURNAL)


def restore_previous(
    place: Place, still: Callable[[], None] = lambda: None, force: bool = False
) -> Tuple[Dict[str, bytes], Dict[str, bytes]]:
    """Put back what was there before the last change of ours, which is kept in its turn: a second call undoes the
    first. What is there now (nothing if it is no archive), and what was put back. Raises ArchiveError; ``no-copy``:
    none is kept; ``superseded``: somebody who keeps no copy changed the archive since, and that would be lost, too;
    with ``force`` it is."""
    volume = _opened(place)
    stored = _stored(volume)
    kept = previous_copy(stored)
    if kept is None:
        raise ArchiveError("no-copy", "no earlier copy is kept on the volume: write it again from a host", volume.path)
    members = _located(volume.path, kept)
    try:
        present = parse_archive(whole(stored))
    except ArchiveError:
        present = {}
    if present and written_over(stored) and not force:
        raise ArchiveError(
            "superseded",
            "the kept copy is older than a change by a host that keeps none (oVirt's own tools): that change would be "
            "lost as well",
            volume.path,
        )
    write_archive(volume, {name: members[name] for name in MEMBERS}, force=True, still=still)
    return present, members


def _opened(place: Place) -> ArchiveBytes:
    return BytesHere(place) if isinstance(place, (str, Path)) else place


def _read(volume: ArchiveBytes) -> bytes:
    """The archive, whole."""
    return whole(_stored(volume))


def _stored(volume: ArchiveBytes) -> bytes:
    """The archive and what is kept beside it; a volume that is too small for that has the archive alone."""
    try:
        try:
            return volume.read(AREA)
        except IoFailure as failure:
            if failure.code != "too-small":
                raise
            return volume.read(SIZE)
    except IoFailure as failure:
        raise _failed(volume.path, failure) from failure


def _failed(path: PathLike, failure: IoFailure) -> ArchiveError:
    if failure.code == "late-write":
        return ArchiveError(
            failure.code,
            "the storage did not answer in time; the change may be there, or arrive later: restore the path to the "
            "storage, then look before you repeat it",
            str(path),
        )
    reason = f", {os.strerror(failure.error)}" if failure.error else ""
    return ArchiveError(
        failure.code, f"cannot be accessed ({failure.code}{reason}); is the storage connected?", str(path)
    )


def _located(path: PathLike, data: bytes) -> Dict[str, bytes]:
    try:
        return parse_archive(data)
    except ArchiveError as error:
        raise ArchiveError(error.code, error.detail, str(path)) from None


def _refuse_foreign(path: PathLike, present: bytes) -> None:
    if present.count(0) == len(present):
        return
    if not is_header(present[:BLOCK]):
        raise ArchiveError(
            "not-an-archive", "the volume holds something else: check conf_volume_UUID; nothing was written", str(path)
        )


# --- bytes
# -------------------------------------------------------------------------------------------------------------------


def content_size(members: Mapping[str, bytes]) -> int:
    """Bytes of the CAPACITY that they take."""
    return sum(padded(len(content)) for content in members.values())


def build_archive(members: Mapping[str, bytes]) -> bytes:
    """20,480 bytes of ustar: mode 0644, owner 0:0 without names, time 0, in the order of MEMBERS. Raises ArchiveError:
    a member too few or too many, or more content than fits."""
    if set(members) != set(MEMBERS):
        missing = sorted(set(MEMBERS) - set(members))
        extra = sorted(set(members) - set(MEMBERS))
        raise ArchiveError(
            "member-missing", f"expected the members {', '.join(MEMBERS)}; missing {missing}, extra {extra}"
        )
    needed = content_size(members)
    if needed > CAPACITY:
        sizes = ", ".join(f"{name} {len(members[name])}" for name in MEMBERS)
        raise ArchiveError(
            "too-large",
            f"{needed} bytes of content in blocks of {BLOCK}, at most {CAPACITY} fit ({sizes}): shorten one",
        )
    parts = [
        header(name, len(members[name])) + members[name].ljust(padded(len(members[name])), b"\0") for name in MEMBERS
    ]
    return b"".join(parts).ljust(SIZE, b"\0")


def _shown(name: str) -> str:
    return "".join(char if char.isprintable() else "?" for char in name[:40])


def parse_archive(data: bytes) -> Dict[str, bytes]:
    """The files in any 20,480 bytes. Members in any order, of any tar dialect; later ones win. Raises ArchiveError if
    it is no archive or one of the five is missing; never anything else."""
    if data.count(0) == len(data):
        raise ArchiveError("empty", "the volume is empty: it has never been written")
    found: Dict[str, bytes] = {}
    position = 0
    while position + BLOCK <= len(data):
        block = data[position : position + BLOCK]
        if block.count(0) == BLOCK:
            break
        try:
            name, size, is_file = member(block, position)
        except TarDamage as damage:
            raise ArchiveError("not-an-archive", str(damage)) from None
        content = data[position + BLOCK : position + BLOCK + size]
        if len(content) < size:
            raise ArchiveError(
                "truncated",
                f"{_shown(name)} is cut off after {len(content)} of {size} bytes: whoever wrote it put in more than "
                f"the {SIZE} bytes of the archive take; write it again from a host that has a copy, with less content",
            )
        if is_file:
            found[name] = content
        position += BLOCK + padded(size)
    missing = [name for name in MEMBERS if name not in found]
    if missing:
        raise ArchiveError(
            "member-missing", f"without {', '.join(missing)}: write it again from a host that has a copy"
        )
    return found
