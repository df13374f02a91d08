"""Nobody gets half of this package and half of oVirt's.

Both have the same files. Installers of wheels overwrite the other's without a word, and which of two directories wins
is decided by the order of the interpreter's path: a host would then be asked about its HA by the one and served by the
other.
"""

import logging
import os
import sys
from typing import FrozenSet, Iterator

PACKAGE = "ovirt_hosted_engine_ha"
OURS: FrozenSet[str] = frozenset(
    {
        "__init__.py",
        "neighbours.py",
        "agent/__init__.py",
        "agent/constants.py",
        "client/__init__.py",
        "client/client.py",
        "env/__init__.py",
        "env/config.py",
        "env/config_constants.py",
        "lib/__init__.py",
        "lib/exceptions.py",
        "lib/util.py",
    }
)
_HERE = os.path.dirname(os.path.realpath(__file__))

log = logging.getLogger(PACKAGE)


class OtherPackage(ImportError):
    """``place``: a file or directory that is not ours."""

    msg = (
        "{place}: expected nothing of oVirt's own ovirt-hosted-engine-ha beside ovirt-he-ha-compat; remove that "
        "package, then install ovirt-he-ha-compat again"
    )

    def __init__(self, place: str) -> None:
        super().__init__(self.msg.format(place=place), name=PACKAGE, path=place)
        self.place = place


def refuse() -> None:
    """Raises OtherPackage. It is logged, too: programs take an ImportError for "no HA on this host"."""
    for place in _foreign():
        problem = OtherPackage(place)
        log.error("%s", problem)
        raise problem


def _foreign() -> Iterator[str]:
    for directory, _directories, names in os.walk(_HERE):
        for name in sorted(names):
            path = os.path.join(directory, name)
            if name.endswith(".py") and os.path.relpath(path, _HERE) not in OURS:
                yield path
    for entry in sys.path:
        other = os.path.join(os.path.realpath(entry or os.curdir), PACKAGE)
        if other != _HERE and os.path.isfile(os.path.join(other, "__init__.py")) and not _is_ours(other):
            yield other


def _is_ours(directory: str) -> bool:
    """The same package, installed twice."""
    return os.path.isfile(os.path.join(directory, os.path.basename(__file__)))
