"""What must outlive a restart of the agent: budgets and clocks, with the boot they belong to.

The clocks are monotonic seconds, so they mean nothing after a reboot: a file of another boot is ignored.
A file that cannot be read is reported and treated as absent: the budgets then start full, and no clock is guessed.
"""

import dataclasses
import errno
import json
from pathlib import Path
from typing import Any, Dict, Optional, Tuple

from ovirt_he_ha.config.text import atomic_write
from ovirt_he_ha.core.model import Budgets

FORMAT_VERSION = 1
_MAX_BYTES = 65536
_PROBLEMS = {
    errno.ENOSPC: "full",
    errno.EDQUOT: "full",
    errno.EROFS: "read-only",
    errno.EACCES: "no-access",
    errno.EPERM: "no-access",
    errno.ENOENT: "missing",
}


class StateFileError(Exception):
    msg = "Cannot use the state file {path}: {problem}. It is ignored; remove it if this repeats."

    def __init__(self, path: Path, problem: str) -> None:
        super().__init__(path, problem)
        self.path = path
        self.problem = problem

    def __str__(self) -> str:
        return self.msg.format(path=self.path, problem=self.problem)


class StateFile:
    """Budgets on disk, one writer (the agent), replaced by rename.

    ``scale`` belongs to the clock: product seconds of a clock with another scale cannot be compared.
    """

    def __init__(self, path: Path, boot_id: str, scale: float = 1.0) -> None:
        self._path = path
        self._boot_id = boot_id
        self._scale = scale
        self._saved: Optional[Budgets] = None
        self._problem = ""

    @property
    def problem(self) -> str:
        """Why the last write failed: ``full``, ``read-only``, ``no-access``, ``missing`` or ``io``; empty: it did
        not, or what it has to hold is there."""
        return self._problem

    def load(self, now: float) -> Budgets:
        """The saved budgets of this boot, or full ones.

        A clock that lies after ``now`` plus an hour cannot come from this boot. Raises StateFileError for a file that
        exists and cannot be used.
        """
        try:
            raw = self._path.read_bytes()[:_MAX_BYTES]
        except FileNotFoundError:
            return Budgets()
        except OSError as e:
            raise StateFileError(self._path, e.strerror or str(e)) from e
        try:
            budgets = _parse(raw, self._boot_id, self._scale, now)
        except (ValueError, TypeError, KeyError) as e:
            raise StateFileError(self._path, f"not a state file of version {FORMAT_VERSION} ({e})") from e
        self._saved = budgets
        return budgets or Budgets()

    def save(self, budgets: Budgets) -> bool:
        """Write when something changed. Returns whether it wrote; raises OSError when it could not."""
        if budgets == self._saved:
            self._problem = ""
            return False
        document = {
            "version": FORMAT_VERSION,
            "boot_id": self._boot_id,
            "scale": self._scale,
            "budgets": dataclasses.asdict(budgets),
        }
        try:
            atomic_write(self._path, json.dumps(document, sort_keys=True).encode("ascii"), 0o600)
        except OSError as e:
            self._problem = problem_of(e)
            raise
        self._problem = ""
        self._saved = budgets
        return True


def problem_of(error: OSError) -> str:
    """``full``, ``read-only``, ``no-access``, ``missing`` or ``io``."""
    return _PROBLEMS.get(error.errno or 0, "io")


def _parse(raw: bytes, boot_id: str, scale: float, now: float) -> Optional[Budgets]:
    document = json.loads(raw)
    if document["version"] != FORMAT_VERSION:
        raise ValueError(f"version {document['version']!r}")
    if document["boot_id"] != boot_id or document["scale"] != scale:
        return None
    values: Dict[str, Any] = document["budgets"]
    known = {f.name for f in dataclasses.fields(Budgets)}
    if set(values) - known:
        raise ValueError("unknown keys " + ", ".join(sorted(set(values) - known)))
    budgets = Budgets(**{name: _typed(name, value) for name, value in values.items()})
    latest = max((budgets.next_start_at, budgets.handed_over_until, *budgets.crashes, *budgets.moves))
    if latest > now + 3600:
        raise ValueError("a clock lies more than an hour ahead")
    return budgets


_COUNTERS = ("start_failures", "backoff_step")
_OPTIONAL = ("healthy_since",)


def _typed(name: str, value: Any) -> Any:
    default = getattr(Budgets(), name)
    if name in _OPTIONAL:
        return None if value is None else float(value)
    if isinstance(default, tuple):
        return _floats(value)
    return int(value) if name in _COUNTERS else float(value)


def _floats(value: Any) -> Tuple[float, ...]:
    if not isinstance(value, list):
        raise TypeError("expected a list of seconds")
    return tuple(float(x) for x in value)
