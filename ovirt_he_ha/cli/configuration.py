"""--get-shared-config, --set-shared-config: one value of this host's configuration, or of what all hosts share.
--restore-shared-config: all of the latter, as it was before its last change."""

import getpass
import json
import re
import socket
import sys
from typing import List, Optional

from ovirt_he_ha.cli.deployment import NOT_DEPLOYED, is_deployed
from ovirt_he_ha.cli.request import Refusal, Request, quoted, say, warn
from ovirt_he_ha.cli.waiting import notice
from ovirt_he_ha.client.shared_config import HE_LOCAL, HE_SHARED, SharedConfig, SharedConfigError
from ovirt_he_ha.config.paths import HostPaths
from ovirt_he_ha.storage.archive import DAMAGED, ArchiveError

STDIN = "-"
_LONGEST_LINE = 4096  # characters
READ_SECONDS = 1.5  # wall: 20 KiB
WRITE_SECONDS = 20.0  # wall, on storage that answered a moment ago
_ADDRESSES = ("fqdn", "gateway", "tcp_t_address", "email.smtp-server")  # or names; IPv4 and IPv6 alike
_EFFECT = {
    HE_LOCAL: "This host's daemons read it when they start (systemctl restart ovirt-ha-broker ovirt-ha-agent)",
    HE_SHARED: "It reaches hosts that are deployed from now on; running ones keep their own file",
}


def get_shared(request: Request) -> int:
    (key,) = request.words
    value, kind = _found(_configuration(READ_SECONDS), key, request.value("--type"))
    if request.json:
        say(json.dumps({"key": key, "value": value, "type": kind}))
    else:
        say(f"\n{key} : {value}, type : {kind}\n")
    return 0


def set_shared(request: Request) -> int:
    key, value = request.words
    if value == STDIN:
        value = _asked(key)
    if key in _ADDRESSES and not _is_address(value):
        raise Refusal(
            "value",
            f"{key}: expected an address such as 192.0.2.1 or 2001:db8::1, without brackets, or a host name, "
            f"found {value[:60]!r}",
        )
    # What hangs or is refused is known before anything is written.
    _, kind = _found(_configuration(READ_SECONDS), key, request.value("--type"))
    with notice("Writing to the shared storage"):
        try:
            _configuration(WRITE_SECONDS).set(key, value, kind)
        except (SharedConfigError, ArchiveError) as error:
            raise _refused(error) from error
    if kind in _EFFECT:
        warn(_EFFECT[kind])
    return 0


def _asked(key: str) -> str:
    """A credential on a command line can be read by every user of the host."""
    try:
        if sys.stdin.isatty():
            return getpass.getpass(f"{key}: ", sys.stderr)
        line = sys.stdin.readline(_LONGEST_LINE)
    except (EOFError, UnicodeDecodeError):
        line = ""
    if not line.endswith("\n"):
        raise Refusal("value", f"{key}: expected its value in one line on standard input, found none that ends")
    return line[:-1]


def _is_address(text: str) -> bool:
    """Stricter than reading is, which takes what somebody once wrote: what looks like an address has to be one."""
    if ":" in text or "[" in text:
        return _packs(socket.AF_INET6, text.partition("%")[0])
    return not re.fullmatch(r"[0-9.]+", text) or _packs(socket.AF_INET, text)


def _packs(family: int, text: str) -> bool:
    try:
        socket.inet_pton(family, text)
    except (OSError, ValueError):
        return False
    return True


def restore_shared(request: Request) -> int:
    # What hangs is known before anything is written; what can be read and is no archive is what shall be mended.
    try:
        _configuration(READ_SECONDS).keys(HE_SHARED)
    except ArchiveError as error:
        if error.code not in DAMAGED:
            raise _refused(error) from error
    with notice("Writing to the shared storage"):
        try:
            differing = _configuration(WRITE_SECONDS).restore(force=request.has("--force"))
        except (SharedConfigError, ArchiveError) as error:
            hint = ". --force puts it back nevertheless" if getattr(error, "code", "") == "superseded" else ""
            raise Refusal(str(error.code), f"{error}{hint}") from error
    if request.json:
        say(json.dumps({"restored": list(differing)}))
    else:
        say(f"As it was before the last change again: {', '.join(differing) or 'nothing differed'}")
    return 0


def _configuration(seconds: float) -> SharedConfig:
    paths = HostPaths.from_env()
    if not is_deployed(paths):
        raise Refusal("not-deployed", NOT_DEPLOYED, to_stdout=True)
    return SharedConfig(paths, seconds)


def _found(configuration: SharedConfig, key: str, kind: Optional[str]) -> List[str]:
    try:
        return configuration.get(key, kind)
    except KeyError:
        known = configuration.keys(kind)
        lines = [f"{quoted(key)}: no such key. Expected one of"]
        lines += [f"{each} : [{', '.join(keys)}]" for each, keys in known.items()]
        raise Refusal("no-such-key", "\n".join(lines)) from None
    except (SharedConfigError, ArchiveError) as error:
        raise _refused(error) from error


def _refused(error: Exception) -> Refusal:
    code = str(getattr(error, "code", "failed"))
    hint = " (--type=he_local and --type=ha need no storage)" if isinstance(error, ArchiveError) else ""
    return Refusal(code, f"{error}{hint}")
