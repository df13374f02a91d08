"""Writing sanlock's structures on a volume. Whatever was there is gone: nobody may hold anything in it at that
moment."""

from typing import Optional

from ovirt_he_ha.core.model import LeaseId
from ovirt_he_ha.lease.binding import Sanlock, code_of, load, text_of

ALIGNMENT = (
    1 << 20
)  # one lockspace or one resource takes 1 MiB; room for 2,000 hosts with sectors of 512 bytes, 250 with 4,096


class FormatFailed(Exception):
    """``code`` as in SanlockException."""

    msg = "{what} could not be written to {path}: {why}; is sanlock running and the storage connected?"

    def __init__(self, what: str, path: str, code: int, why: str) -> None:
        super().__init__(what, path, code, why)
        self.what = what
        self.path = path
        self.code = code
        self.why = why

    def __str__(self) -> str:
        return self.msg.format(what=self.what, path=self.path, why=self.why)


def write_lockspace(
    name: str, path: str, sector_size: int = 512, api: Optional[Sanlock] = None, alignment: int = ALIGNMENT
) -> None:
    """An empty lockspace at offset 0. ``sector_size`` is the domain's. Raises FormatFailed."""
    api = api or load()
    try:
        api.write_lockspace(name.encode(), path, align=alignment, sector=sector_size)
    except api.SanlockException as error:
        raise FormatFailed(f"lockspace {name}", path, code_of(error), text_of(error)) from error


def write_resource(
    lease: LeaseId, sector_size: int = 512, api: Optional[Sanlock] = None, alignment: int = ALIGNMENT
) -> None:
    """A free lease. Raises FormatFailed."""
    api = api or load()
    try:
        api.write_resource(
            lease.lockspace.encode(),
            lease.key.encode(),
            [(lease.path, lease.offset)],
            align=alignment,
            sector=sector_size,
        )
    except api.SanlockException as error:
        raise FormatFailed(
            f"lease {lease.lockspace}:{lease.key}", lease.path, code_of(error), text_of(error)
        ) from error
