"""The configuration volume behind a process that may hang."""

from ovirt_he_ha.storage.archive import SIZE
from ovirt_he_ha.storage.errors import StorageError
from ovirt_he_ha.storage.io_process import WRITE
from ovirt_he_ha.storage.io_worker import IoWorker


class ArchiveWorker(IoWorker):
    """Like IoWorker; it also writes the archive, which is longer than a slot, as one request."""

    def write_archive(self, data: bytes, deadline: float) -> None:
        """Exactly 20,480 bytes at the volume's beginning. Raises like ``write``."""
        if len(data) != SIZE:
            raise StorageError("request", self.path, detail=f"an archive of {len(data)} bytes")
        self._call(WRITE, 0, len(data), data, deadline)
