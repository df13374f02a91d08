"""The OVF_STORE volumes of a block domain: logical volumes. Their descriptions are in a volume of the domain that has
those of all, each in the place that the volume's tag names.

LVM, and so which volumes there are, can be asked by root alone: the search is made when the domain is connected.
"""

from typing import Dict, List, Mapping

from ovirt_he_ha.storage.domain_files import VolumeFiles
from ovirt_he_ha.storage.io_process import IoFailure
from ovirt_he_ha.storage.ovf_store import OvfStoreError, StoreVolume, description, failed, newest_first

PAGE = 4096
CHUNK = 1 << 20  # bytes of one read: 128 descriptions, or 2,048 of an old domain


def search(files: VolumeFiles, device: str, offsets: Mapping[str, int], size: int) -> Dict[str, int]:
    """Those of ``offsets`` (volume -> where its description of ``size`` bytes begins on ``device``) that are OVF_STORE
    volumes. Descriptions that cannot be read, because the device ends before, are nobody's. Raises IoFailure,
    StorageError."""
    found: Dict[str, int] = {}
    end = files.look(device).size
    at, data = 0, b""
    for volume, offset in sorted(offsets.items(), key=lambda each: each[1]):
        if offset + size > end:
            continue
        if not (data and at <= offset and offset + size <= at + len(data)):
            at = offset - offset % PAGE
            data = files.read(device, at, min(CHUNK, (end - at) // PAGE * PAGE))
        if description(data[offset - at : offset - at + size]) is not None:
            found[volume] = offset
    return found


class BlockOvfStores:
    """``directory``: the group's device nodes. ``offsets``, ``size`` as for ``search``, of the OVF_STORE volumes."""

    def __init__(self, directory: str, device: str, offsets: Mapping[str, int], size: int) -> None:
        self._directory = directory
        self._device = device
        self._offsets = offsets
        self._size = size

    def forget(self) -> None:
        """Others are found when the domain is connected anew."""

    def newest_first(self, files: VolumeFiles) -> List[StoreVolume]:
        """The descriptions are read anew. At least one. Raises OvfStoreError, StorageError."""
        found: List[StoreVolume] = []
        for volume, offset in self._offsets.items():
            begin = offset - offset % PAGE
            try:
                data = files.read(self._device, begin, max(PAGE, self._size))
            except IoFailure as failure:
                raise failed(self._device, failure) from failure
            described = description(data[offset - begin : offset - begin + self._size])
            if described is not None:
                found.append(StoreVolume(f"{self._directory}/{volume}", described))
        if not found:
            raise OvfStoreError(
                "no-store",
                self._directory,
                "none was there when the domain was connected, or it is none any more: connect it again if the engine "
                "has written one since",
            )
        return newest_first(found)
