"""How this host comes to its storage domain: the two sides of it, and who provides them.

``Domain`` is what every part of the product reads: where things lie. It makes and changes nothing. ``Provider`` makes
the domain reachable; only root does, in the one-shot unit or on the command line, never a daemon.

There are two providers: *direct* (we mount, log in and activate) and *vdsm* (vdsm runs on this host and has the
domain already: it is found, verified and left alone).
"""

from dataclasses import dataclass
from typing import Protocol, Tuple

from ovirt_he_ha.core.model import LeaseId
from ovirt_he_ha.storage.ovf_store import Stores


class Domain(Protocol):
    """A storage domain on this host. The paths are computed alike on every host."""

    @property
    def directory(self) -> str:
        """File domains: ``<mount>/<sdUUID>``. Block domains: ``/dev/<sdUUID>``, with one device per volume."""
        ...

    @property
    def ids_path(self) -> str:
        """The domain's own lockspace: which host holds which id."""
        ...

    def volume_path(self, image: str, volume: str) -> str: ...

    def lease(self, image: str, volume: str) -> LeaseId:
        """The sanlock resource that guards the volume. Raises DomainProblem where only the storage can tell and could
        not be asked (the tags of a logical volume)."""
        ...

    def sector_size(self) -> int:
        """512 or 4096, as the domain was made with. Raises DomainProblem, StorageOverdue."""
        ...

    def alignment(self) -> int:
        """Bytes that one lockspace or lease of the domain takes: 1 to 8 MiB. Raises DomainProblem, StorageOverdue."""
        ...

    def verify(self) -> None:
        """That it is there, is this domain, and can be written to. Raises DomainProblem, StorageOverdue."""
        ...

    def ovf_stores(self) -> Stores:
        """The volumes in which a management application describes its VMs."""
        ...

    def check(self, path: str, min_size: int, sector_size: int) -> None:
        """One volume of the domain, see ``volumes.check_volume``."""
        ...


@dataclass(frozen=True)
class Connected:
    """``changed``: something was mounted, logged in to or activated by this call. ``notes``: what the operator should
    know though it kept nothing from working, one sentence each."""

    domain: Domain
    changed: bool
    notes: Tuple[str, ...] = ()


class Provider(Protocol):
    """Both calls are idempotent, and each ends within ``seconds`` (wall, plus at most 1 s to end a command that hangs).
    They raise DomainProblem (see ``ConnectionProblem``), StorageError and CommandError; then nothing is left that was
    not there before: what was mounted, logged in to or activated by the failed call is undone."""

    name: str  # "direct" or "vdsm"

    def connect(self, seconds: float) -> Connected:
        """Make the domain reachable, and verify that it is the one that this host knows."""
        ...

    def disconnect(self, seconds: float) -> bool:
        """Undo what ``connect`` did; True if there was something. Refused (``busy``) while anything uses it."""
        ...
