"""The way to vdsm, for the setup tools that ask it through this package. Our HA itself needs no vdsm."""

import importlib
from typing import Any, Optional

HOST = "localhost"
PORT = 54321
TIMEOUT = 900.0  # wall seconds of one call, as for connecting storage


def connect_vdsm_json_rpc(*_ignored: object, timeout: Optional[float] = None, **_more: object) -> Any:
    """A client of this host's vdsm. ``timeout``: wall seconds of each call; other arguments, such as a logger, are
    ignored. Raises ImportError where vdsm is not installed, and whatever vdsm's own library raises when it does not
    answer."""
    try:
        library = importlib.import_module("vdsm.client")
    except ImportError as error:
        raise ImportError(
            "vdsm.client: expected vdsm's client library; install vdsm-client, or do without vdsm"
        ) from error
    return library.connect(HOST, PORT, timeout=TIMEOUT if timeout is None else timeout)
