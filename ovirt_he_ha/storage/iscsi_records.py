"""open-iscsi's record of a path, as far as the credentials go.

``iscsiadm`` takes a password as an argument only, and the arguments of every process can be read by every user. So the
record is made by the tool and the credentials are written into its file, which only root can read.
"""

import os
import re
from pathlib import Path as FilePath
from typing import TYPE_CHECKING, Dict, Optional

from ovirt_he_ha.config.text import ConfigError, atomic_write, read_text

if TYPE_CHECKING:
    from ovirt_he_ha.storage.iscsi import Path

# Where the distributions keep them: EL, Debian.
PLACES = ("var/lib/iscsi", "etc/iscsi")
_PRINTABLE = re.compile(r"[!-~]([ -~]{0,253}[!-~])?")
_KEYS = "node.session.auth."


class NodeRecords:
    """Below ``root``, ``/`` on a real host."""

    def __init__(self, root: FilePath) -> None:
        self._root = root

    def text(self, path: "Path") -> Optional[str]:
        """None: there is no record. Raises ConfigError for one that cannot be read."""
        file = self._file(path)
        return None if file is None else read_text(file)

    def put_back(self, path: "Path", text: str) -> None:
        """As it was: with what somebody else wrote into it. Raises OSError."""
        file = self._file(path)
        if file is not None:
            atomic_write(file, text.encode(), 0o600)

    def authenticate(self, path: "Path", user: str, password: str) -> None:
        """CHAP with both, no authentication without. Raises ConfigError for one without the other or with what a record
        cannot hold, OSError."""
        file = self._file(path)
        if file is None:
            raise FileNotFoundError(2, "iscsiadm made no record", str(self._root / PLACES[0] / "nodes"))
        wanted: Dict[str, Optional[str]] = {"authmethod": "None", "username": None, "password": None}
        if user or password:
            for name, text in (("user", user), ("password", password)):
                if not _PRINTABLE.fullmatch(text):
                    raise ConfigError(
                        "hosted-engine.conf", name, "1 to 255 printable ASCII characters", "something else"
                    )
            wanted = {"authmethod": "CHAP", "username": user, "password": password}
        before = read_text(file)
        after = _changed(before, wanted)
        if after != before:
            atomic_write(file, after.encode(), 0o600)

    def _file(self, path: "Path") -> Optional[FilePath]:
        portal = f"{path.address.strip('[]')},{path.port},{path.group}"
        for place in PLACES:
            file = self._root / place / "nodes" / path.target / portal / path.interface
            if os.path.isfile(file):
                return file
        return None


def _changed(text: str, wanted: Dict[str, Optional[str]]) -> str:
    """The lines of these keys replaced, taken out (None), or put before the end of the record."""
    lines = [line for line in text.splitlines() if not _is_one_of(line, wanted)]
    new = [f"{_KEYS}{name} = {value}" for name, value in wanted.items() if value is not None]
    end = next((number for number, line in enumerate(lines) if line.startswith("# END RECORD")), len(lines))
    return "\n".join([*lines[:end], *new, *lines[end:]]) + "\n"


def _is_one_of(line: str, names: Dict[str, Optional[str]]) -> bool:
    key = line.partition("=")[0].strip()
    return key.startswith(_KEYS) and key[len(_KEYS) :] in names
