"""--version: apart from everything else, so that it answers whatever is broken."""

from ovirt_he_ha import __version__
from ovirt_he_ha.cli.request import Request, say


def show(_request: Request) -> int:
    say(f"ovirt-he-ha {__version__}")
    return 0
