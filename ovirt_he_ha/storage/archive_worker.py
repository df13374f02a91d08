"""The configuration volume behind a process that may hang."""

from ovirt_he_ha.storage.archive import SIZE
from ovirt_he_ha.storage.archive_journal import HEAD, JOURNAL
from ovirt_he_ha.storage.errors import StorageError
from ovirt_he_ha.storage.io_process import WRITE
from ovirt_he_ha.storage.io_worker import IoWorker

PLACES = {0: SIZE, JOURNAL: HEAD + SIZE}  # offset -> bytes: nothing else is written on this volume


class ArchiveWorker(IoWorker):
    """Like IoWorker; it also writes the archive, which is longer than a slot, as one request."""

    def write_archive(self, data: bytes, offset: int, deadline: float) -> None:
        """The archive, or what is kept of it. Raises like ``write``."""
        if PLACES.get(offset) != len(data):
            raise StorageError("request", self.path, detail=f"{len(data)} bytes at offset {offset}")
        self._call(WRITE, offset, len(data), data, deadline)
