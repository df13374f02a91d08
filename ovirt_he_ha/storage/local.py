"""A storage domain in a directory that every host sees under the same path."""

import os
from pathlib import PurePosixPath
from typing import Dict, Mapping, Optional

from ovirt_he_ha.core.model import LeaseId
from ovirt_he_ha.storage.domain_files import DomainFiles, FilesHere
from ovirt_he_ha.storage.errors import DomainProblem
from ovirt_he_ha.storage.io_process import IoFailure
from ovirt_he_ha.storage.ovf_store import OvfStores, Stores
from ovirt_he_ha.storage.volumes import MIB, check_volume

_ALIGNMENTS = tuple(str(number << 20) for number in (1, 2, 4, 8))


class LocalDomain:
    """Paths and facts of the domain; makes and changes nothing. ``files`` does the looking: with those of this process
    (the default) ``sector_size`` and ``verify`` may hang with the storage, and then nothing can end the process, not
    even SIGKILL. A daemon uses those of a worker."""

    def __init__(self, storage: str, sd_uuid: str, files: Optional[DomainFiles] = None) -> None:
        self.storage = storage
        self.sd_uuid = sd_uuid
        self._files = files or FilesHere()

    @property
    def directory(self) -> str:
        return str(PurePosixPath(self.storage) / self.sd_uuid)

    @property
    def ids_path(self) -> str:
        """The storage domain's own lockspace: which host holds which id."""
        return f"{self.directory}/dom_md/ids"

    @property
    def metadata_path(self) -> str:
        return f"{self.directory}/dom_md/metadata"

    def volume_path(self, image: str, volume: str) -> str:
        return f"{self.directory}/images/{image}/{volume}"

    def lease(self, image: str, volume: str) -> LeaseId:
        """The sanlock resource that guards the volume; computed alike on every host."""
        return LeaseId(self.sd_uuid, volume, f"{self.volume_path(image, volume)}.lease", 0)

    def sector_size(self) -> int:
        """512 or 4096, as the domain was made with: the same on every host, whatever device is below. Raises
        DomainProblem, and StorageOverdue with a worker's files."""
        text = self._metadata().get("BLOCK_SIZE", "512")
        if text not in ("512", "4096"):
            raise DomainProblem(
                "metadata",
                self.metadata_path,
                "BLOCK_SIZE=512 or 4096",
                f"it says {text[:20]!r}: the domain is damaged",
            )
        return int(text)

    def alignment(self) -> int:
        """1 MiB, with room for 2,000 hosts at sectors of 512 bytes and 250 at 4,096, unless the domain was made for
        more. Raises like ``sector_size``."""
        text = self._metadata().get("ALIGNMENT", str(MIB))  # versions of the format before 5 do not say it
        if text not in _ALIGNMENTS:
            raise DomainProblem(
                "metadata",
                self.metadata_path,
                f"ALIGNMENT={' or '.join(_ALIGNMENTS)}",
                f"it says {text[:20]!r}: the domain is damaged, or newer than this version",
            )
        return int(text)

    def verify(self) -> None:
        """That this is the domain, that we may write to it, and that its sectors suit the device. Raises
        DomainProblem, and StorageOverdue with a worker's files."""
        if not os.path.isabs(self.storage):
            raise DomainProblem("path", self.storage, "an absolute directory", "correct storage= in hosted-engine.conf")
        if not self._files.is_directory(self.directory):
            raise DomainProblem(
                "missing", self.directory, "the directory of the storage domain", "mount the storage, or check sdUUID"
            )
        found = self._metadata().get("SDUUID", self.sd_uuid)
        if found != self.sd_uuid:
            raise DomainProblem(
                "metadata",
                self.metadata_path,
                f"SDUUID={self.sd_uuid}",
                f"it says {found[:40]!r}: this is another domain",
            )
        sector_size = self.sector_size()
        self.check(self.ids_path, self.alignment(), sector_size)

    def ovf_stores(self) -> Stores:
        return OvfStores(f"{self.directory}/images")

    def check(self, path: str, min_size: int, sector_size: int) -> None:
        """One volume of the domain, see ``check_volume``."""
        check_volume(path, min_size, sector_size, look=self._files.look)

    def _metadata(self) -> Mapping[str, str]:
        try:
            text = self._files.text(self.metadata_path).decode("utf-8")
        except UnicodeDecodeError as error:
            raise DomainProblem(
                "metadata", self.metadata_path, "text in UTF-8", "found other bytes: the domain is damaged"
            ) from error
        except IoFailure as failure:
            code = failure.code if failure.code in ("missing", "no-access", "stale", "io") else "metadata"
            what = os.strerror(failure.error) if failure.error else failure.code
            todo = "give the domain to user and group 36:36" if code == "no-access" else "connect the storage"
            raise DomainProblem(
                code, self.metadata_path, "a readable file", f"found {what}: {todo}, or check sdUUID"
            ) from failure
        values: Dict[str, str] = {}
        for line in text.splitlines():
            key, sign, value = line.partition("=")
            if sign:
                values[key.strip()] = value.strip()
        return values
