"""The newest OVF_STORE that this host has ever seen: an older one on the storage means that the storage went back.

A snapshot or a backup was restored, and the definition in it is used, because nothing better is there. That is said,
and nothing is kept from a start by it.

Every --vm-status reads it: what only the agent needs is imported where it needs it, 20 ms of CPU.
"""

import json
import os
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Optional, Sequence, Tuple

from ovirt_he_ha.config.text import ConfigError, atomic_write, read_text

if TYPE_CHECKING:
    from ovirt_he_ha.storage.ovf_store import StoreVolume

# The dates are the application's wall clock in a zone that is not read: an hour back is the end of summer time.
LEEWAY = timedelta(hours=3)


class NewestStore:
    """Remembered in ``path`` (of the agent), read by the command line. ``sd_uuid`` empty: of whichever domain."""

    def __init__(self, path: Path, sd_uuid: str = "") -> None:
        self._path = path
        self._sd_uuid = sd_uuid

    def note(self, volumes: "Sequence[StoreVolume]") -> None:
        """What the domain has now. Never raises: what cannot be remembered is only not noticed."""
        dates = [found for found in (_moment(each.description.date) for each in volumes) if found is not None]
        if not dates:
            return
        now = max(dates)
        newest, before = self._load()
        newest = now if newest is None else max(newest, now)
        if now != before:
            self._save(newest, now)
        why = _older(newest, now)
        if why:
            _warn(why)

    def problem(self) -> str:
        """Empty, or what was older at the last look, and what to do."""
        newest, now = self._load()
        return _older(newest, now) if newest is not None and now is not None else ""

    def forget(self) -> None:
        """The storage went back on purpose. Raises OSError."""
        with suppress(FileNotFoundError):
            os.unlink(self._path)

    def _load(self) -> Tuple[Optional[datetime], Optional[datetime]]:
        """The newest ever, and that of the last look."""
        try:
            values = json.loads(read_text(self._path))
            if self._sd_uuid not in ("", values["sd_uuid"]):
                return None, None
            return datetime.fromisoformat(values["newest"]), datetime.fromisoformat(values["now"])
        except (ConfigError, ValueError, KeyError, TypeError, AttributeError):
            return None, None

    def _save(self, newest: datetime, now: datetime) -> None:
        values = {"sd_uuid": self._sd_uuid, "newest": newest.isoformat(), "now": now.isoformat()}
        try:
            atomic_write(self._path, (json.dumps(values) + "\n").encode(), 0o644, durable=False)
        except OSError as error:
            _warn(f"Cannot write {self._path}: {error.strerror}")


def _warn(text: str) -> None:
    import logging

    from ovirt_he_ha.config.journal import throttled

    logging.getLogger(__name__).warning("%s", text, extra=throttled("ovf-older"))


def _moment(date: Tuple[int, ...]) -> Optional[datetime]:
    try:
        year, month, day, hour, minute, second = date
        return datetime(year, month, day, hour, minute, second)
    except (ValueError, OverflowError):
        return None


def _older(newest: datetime, now: datetime) -> str:
    if newest - now <= LEEWAY:
        return ""
    return (
        f"The OVF_STORE is of {now:%Y-%m-%d %H:%M}, and this host has seen one of {newest:%Y-%m-%d %H:%M}: the storage "
        "was put back to an earlier state, and the engine VM starts as it was defined then. If that was on purpose: "
        "hosted-engine --connect-storage --accept-copy on each host; else look for the storage that is right"
    )
