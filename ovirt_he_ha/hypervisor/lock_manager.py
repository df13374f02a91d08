"""Which lock manager libvirt's daemon uses. libvirt has no call for it: its configuration says it, and that counts from
the daemon's start on."""

import re
from pathlib import Path
from typing import Iterable, Optional

SANLOCK = "sanlock"
OFF = "off"
STALE = "stale"
UNKNOWN = ""

_LINE = re.compile(r"""^\s*lock_manager\s*=\s*["']([^"'\n]{1,40})["']\s*(?:#.*)?$""", re.MULTILINE)
_MOST_BYTES = 1 << 20


def configured(qemu_conf: Path) -> str:
    """``sanlock``, another manager's name, ``off``; empty if the file cannot be read."""
    try:
        with open(qemu_conf, encoding="utf-8", errors="replace") as stream:
            text = stream.read(_MOST_BYTES)
    except FileNotFoundError:
        return OFF  # libvirt's own default
    except OSError:
        return UNKNOWN
    found = _LINE.findall(text)
    return str(found[-1]) if found else OFF


def in_force(qemu_conf: Path, pid_files: Iterable[Path], proc: Path = Path("/proc")) -> str:
    """As ``configured``; ``stale`` if libvirt's daemon runs since before the file was changed last: it wrote its pid
    file when it started. A daemon that does not run reads the configuration when it is started."""
    word = configured(qemu_conf)
    if word != SANLOCK:
        return word  # whatever runs now: the next start of the daemon takes the guard away
    try:
        changed = qemu_conf.stat().st_mtime
    except OSError:
        return UNKNOWN
    begun = [moment for moment in (_began(path, proc) for path in pid_files) if moment is not None]
    return STALE if any(moment < changed for moment in begun) else word


def _began(pid_file: Path, proc: Path) -> Optional[float]:
    """When that daemon was started, by the clock of the file system; None if it does not run."""
    try:
        pid = int(pid_file.read_text(encoding="ascii").strip())
        return pid_file.stat().st_mtime if (proc / str(pid)).is_dir() else None
    except (OSError, ValueError):
        return None
