"""Who holds the lease of the engine VM, as the record on the volume says."""

from typing import Optional

from ovirt_he_ha.core.model import LeaseId, LeaseOwner
from ovirt_he_ha.lease.binding import Sanlock, code_of, load, text_of


class LeaseUnreadable(Exception):
    """``code`` is sanlock's: positive system errors, negative ones of its own (-227: another resource lies there)."""

    msg = "lease {lockspace}:{key} at {path}:{offset} cannot be read: {why}"

    def __init__(self, lease: LeaseId, code: int, why: str) -> None:
        super().__init__(lease, code, why)
        self.lease = lease
        self.code = code
        self.why = why

    def __str__(self) -> str:
        lease = self.lease
        return self.msg.format(
            lockspace=lease.lockspace, key=lease.key, path=lease.path, offset=lease.offset, why=self.why
        )


def owner(lease: LeaseId, sector_size: int = 512, api: Optional[Sanlock] = None) -> LeaseOwner:
    """The host in the record; ``host_id`` 0 when nobody holds it. A dead host's record stays until somebody else takes
    the lease, so this says nothing of whether the owner lives. Takes no lease; may block while sanlock or the storage
    does. Raises LeaseUnreadable."""
    api = api or load()
    try:
        found = api.read_resource_owners(
            lease.lockspace.encode(), lease.key.encode(), [(lease.path, lease.offset)], sector=sector_size
        )
    except api.SanlockException as error:
        raise LeaseUnreadable(lease, code_of(error), text_of(error)) from error
    if not found:
        return LeaseOwner(0)
    first = found[0]
    return LeaseOwner(int(first["host_id"]), int(first["generation"]), int(first["timestamp"]))
