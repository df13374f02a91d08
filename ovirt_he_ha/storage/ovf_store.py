"""The OVF_STORE volumes of a storage domain: where the management application leaves the description of each VM.

A domain normally has two, written one after the other, so that one is whole whenever the other is being written. Each
is a raw volume that begins with a tar archive; a VM's member is ``<its id>.ovf``. What kind of volume it is, and when
it was written, stands as JSON in the description that the volume's metadata file has.
"""

import json
import re
import time
from dataclasses import dataclass
from typing import Any, Dict, List, Mapping, Optional, Protocol, Tuple

from ovirt_he_ha.storage.domain_files import VolumeFiles
from ovirt_he_ha.storage.errors import StorageError
from ovirt_he_ha.storage.io_process import IoFailure
from ovirt_he_ha.storage.tar import BLOCK, TarDamage, member, padded

KIND = "OVF_STORE"
MOST_OVF = 1 << 20  # bytes; a real one has 20 to 60 KB
MOST_STORE = 256 << 20  # bytes that are walked; an OVF_STORE has 128 MiB
FIRST, CHUNK = 64 << 10, 512 << 10  # bytes of the first read, which mostly is enough, and of each that follows
PAGE = 4096
_MONTH_NAMES = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_MONTHS = {name: number for number, name in enumerate(_MONTH_NAMES, 1)}
_DATE = re.compile(r"\w{3} (\w{3}) +(\d{1,2}) (\d\d):(\d\d):(\d\d) (?:\S+ )?(\d{4})")
_ISO = re.compile(r"(\d{4})-(\d\d)-(\d\d)[T ](\d\d):(\d\d):(\d\d)")
_NAME = re.compile(r"[0-9a-zA-Z-]{1,64}")


class OvfStoreError(Exception):
    """``code``: ``no-store`` the domain has none, ``not-an-archive``, ``cut-off``, ``no-ovf`` the VM is not in it,
    ``too-large``, or that of the failed access (``missing``, ``no-access``, ``overdue``, ...)."""

    msg = "{path}: OVF_STORE: {detail}"

    def __init__(self, code: str, path: str, detail: str) -> None:
        super().__init__(code, path, detail)
        self.code = code
        self.path = path
        self.detail = detail

    def __str__(self) -> str:
        return self.msg.format(path=self.path, detail=self.detail)


@dataclass(frozen=True)
class Description:
    """``updated``: the application finished its last writing. ``size`` of the archive in bytes, 0: not said. ``date``
    of the writing, to be compared with that of another store of the same domain only: its time zone is not read."""

    updated: bool = True
    size: int = 0
    date: Tuple[int, ...] = ()


@dataclass(frozen=True)
class StoreVolume:
    path: str
    description: Description


def description(metadata: bytes) -> Optional[Description]:
    """Of a volume's metadata: lines of ``KEY=value``. None: this is no OVF_STORE. Any bytes are fine."""
    for line in metadata.decode("utf-8", "replace").split("\0", 1)[0].splitlines():
        key, _, value = line.partition("=")
        if key.strip() == "DESCRIPTION":
            return _description(value.strip())
    return None


def _description(text: str) -> Optional[Description]:
    if not (text.startswith("{") and text.endswith("}")):
        return None
    try:
        found: Any = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict) or found.get("Disk Description") != KIND:
        return None
    values: Dict[str, Any] = found
    size = values.get("Size")
    known = isinstance(size, int) and not isinstance(size, bool) and 0 < size <= MOST_STORE
    return Description(values.get("Updated") is not False, int(size or 0) if known else 0, _date(values))


def _date(values: Mapping[str, Any]) -> Tuple[int, ...]:
    value = values.get("Last Updated")
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 53:
        return tuple(time.gmtime(value / 1000 if value > 1 << 33 else value)[:6])
    text = value if isinstance(value, str) else ""
    found = _ISO.match(text)
    if found is not None:
        return tuple(int(part) for part in found.groups())
    found = _DATE.fullmatch(text)
    if found is None or found.group(1) not in _MONTHS:
        return ()
    month, day, hour, minute, second, year = found.groups()
    return (int(year), _MONTHS[month], int(day), int(hour), int(minute), int(second))


def newest_first(volumes: List[StoreVolume]) -> List[StoreVolume]:
    """A store whose writing was not finished comes after all that were."""
    return sorted(volumes, key=lambda each: (each.description.updated, each.description.date, each.path), reverse=True)


class Stores(Protocol):
    """Of one domain."""

    def forget(self) -> None:
        """Search again at the next look."""
        ...

    def newest_first(self, files: VolumeFiles) -> List[StoreVolume]:
        """At least one. Raises OvfStoreError, StorageError."""
        ...


class OvfStores(Stores):
    """The OVF_STORE volumes of a file domain, ``images`` being its directory of images. The search reads the metadata
    of every volume (a domain may have hundreds), so its result is kept until ``forget``; the descriptions of the found
    ones are read anew at each look."""

    def __init__(self, images: str) -> None:
        self.images = images
        self._known: Optional[List[str]] = None
        self._left: Optional[List[str]] = None  # images that a search has still to look into
        self._found: List[str] = []

    def forget(self) -> None:
        """Search again at the next look."""
        self._known = self._left = None

    def newest_first(self, files: VolumeFiles) -> List[StoreVolume]:
        """At least one. Raises OvfStoreError; the access's own error (StorageError) where the storage hangs, or is too
        slow for the whole search: the next look goes on with it."""
        known = self._known if self._known is not None else self._searched(files)
        found: List[StoreVolume] = []
        for path in known:
            described = _described(files, path)
            if described is not None:
                found.append(StoreVolume(path, described))
        if not found:
            self.forget()
            raise OvfStoreError("no-store", self.images, "no volume of this domain is one: has the engine written any?")
        return newest_first(found)

    def _searched(self, files: VolumeFiles) -> List[str]:
        if self._left is None:
            try:
                self._left = [name for name in reversed(files.names(self.images)) if _NAME.fullmatch(name)]
            except IoFailure as failure:
                raise failed(self.images, failure) from failure
            self._found = []
        while self._left:
            self._found += _stores_in(files, f"{self.images}/{self._left[-1]}")
            self._left.pop()
        self._known, self._left = self._found, None
        return self._known


def _stores_in(files: VolumeFiles, image: str) -> List[str]:
    try:
        names = files.names(image)
    except IoFailure:
        return []  # a file, or an image that is being removed
    paths = [f"{image}/{name[:-5]}" for name in names if name.endswith(".meta")]
    return [path for path in paths if _described(files, path) is not None]


def _described(files: VolumeFiles, path: str) -> Optional[Description]:
    try:
        return description(files.text(f"{path}.meta"))
    except IoFailure:
        return None  # removed meanwhile, or not ours to read: then it is none of the application's stores


def read_ovf(files: VolumeFiles, volume: StoreVolume, vmid: str) -> bytes:
    """The VM's description. Raises OvfStoreError, and StorageError where the storage hangs."""
    try:
        size = files.look(volume.path).size
        return _find(_Window(files, volume.path, min(size, volume.description.size or size, MOST_STORE), size), vmid)
    except IoFailure as failure:
        raise failed(volume.path, failure) from failure
    except TarDamage as damage:
        raise OvfStoreError("not-an-archive", volume.path, str(damage)) from None


class _Window:
    """The archive's bytes, read in chunks that only go forward. ``end``: of the archive; ``size``: of the volume."""

    def __init__(self, files: VolumeFiles, path: str, end: int, size: int) -> None:
        self._files = files
        self.path = path
        self.end = end
        self._readable = size - size % PAGE
        self._at = 0
        self._data = b""

    def get(self, offset: int, count: int) -> bytes:
        """Fewer bytes where the archive ends."""
        count = max(0, min(count, self.end - offset))
        if not (self._at <= offset and offset + count <= self._at + len(self._data)):
            self._load(offset, count)
        return self._data[offset - self._at : offset - self._at + count]

    def _load(self, offset: int, count: int) -> None:
        begin = offset - offset % PAGE
        wanted = max(FIRST if offset == 0 else CHUNK, offset + count - begin)
        stop = min(begin + wanted + PAGE - 1, self._readable)
        parts: List[bytes] = []
        at = begin
        while at < stop - stop % PAGE:
            part = min(CHUNK, stop - stop % PAGE - at)
            parts.append(self._files.read(self.path, at, part))
            at += part
        self._at, self._data = begin, b"".join(parts)


def _find(window: _Window, vmid: str) -> bytes:
    wanted = f"{vmid}.ovf".lower()
    position = 0
    while position + BLOCK <= window.end:
        block = window.get(position, BLOCK)
        if len(block) < BLOCK or block.count(0) == BLOCK:
            break
        name, size, is_file = member(block, position)
        if is_file and name.lower() == wanted:
            return _content(window, position + BLOCK, size)
        position += BLOCK + padded(size)
    if position == 0:
        raise OvfStoreError("no-ovf", window.path, "it is empty: the engine has not written it yet")
    raise OvfStoreError("no-ovf", window.path, f"it has no {wanted}: is vmid in hosted-engine.conf the engine VM's?")


def _content(window: _Window, offset: int, size: int) -> bytes:
    if size > MOST_OVF:
        raise OvfStoreError("too-large", window.path, f"the VM's OVF has {size} bytes, expected at most {MOST_OVF}")
    content = window.get(offset, size)
    if len(content) < size:
        raise OvfStoreError(
            "cut-off",
            window.path,
            f"the VM's OVF is cut off after {len(content)} of {size} bytes: the engine writes it again with its next "
            "update of the OVF_STORE disks",
        )
    return content


def failed(path: str, failure: IoFailure) -> OvfStoreError:
    """What became of an access to ``path``."""
    what = str(StorageError(failure.code, path, failure.error)).partition(": ")[2]
    return OvfStoreError(failure.code, path, what)
