"""What the arguments of a call must be. Everything else is a Fault that says what was expected."""

from typing import Any, Dict, Mapping, Tuple

from ovirt_he_ha.broker import protocol
from ovirt_he_ha.broker.own_slot import BLANK
from ovirt_he_ha.broker.protocol import FaultCode
from ovirt_he_ha.broker.rpc import Fault
from ovirt_he_ha.core.model import MAX_HOST_ID, Invalid, Record
from ovirt_he_ha.core.slot import decode

MAX_OPTIONS = 64
MAX_TEXT = 4096

_ARGUMENTS: Mapping[str, int] = {
    protocol.START_MONITOR: 2,
    protocol.STOP_MONITOR: 1,
    protocol.STATUS_MONITOR: 1,
    protocol.PUT_STATS: 2,
    protocol.PUSH_HOSTS_STATE: 1,
    protocol.NOTIFY: 3,
    protocol.START_DOMAIN_MONITOR: 1,
    protocol.LOCK_HOST_ID: 1,
    protocol.WAIT_FOR_CHANGE: 2,
}


def check_count(method: str, args: Tuple[Any, ...]) -> None:
    expected = _ARGUMENTS.get(method, 0)
    if len(args) != expected:
        raise Fault(FaultCode.ARGUMENT, f"{method}: expected {expected} arguments, found {len(args)}")


def check_host_id(host_id: Any, low: int) -> None:
    if not isinstance(host_id, int) or isinstance(host_id, bool) or not low <= host_id <= MAX_HOST_ID:
        raise Fault(FaultCode.ARGUMENT, f"expected a host id {low}..{MAX_HOST_ID}, found {str(host_id)[:40]!r}")


def check_text(name: str, text: Any) -> None:
    if not isinstance(text, str) or len(text) > MAX_TEXT:
        raise Fault(FaultCode.ARGUMENT, f"{name}: expected a text of at most {MAX_TEXT} characters")


def check_options(method: str, options: Any) -> Dict[str, str]:
    if not isinstance(options, dict) or len(options) > MAX_OPTIONS:
        raise Fault(FaultCode.ARGUMENT, f"{method}: expected a struct of at most {MAX_OPTIONS} options")
    found = {}
    for key, value in options.items():
        if isinstance(value, (list, dict, bytes)) or len(str(key)) > 256 or len(str(value)) > MAX_TEXT:
            raise Fault(FaultCode.ARGUMENT, f"{method}: option {str(key)[:40]!r}: expected a short text or number")
        found[str(key)] = str(value)
    return found


def check_global(block: bytes) -> None:
    """Exactly ``maintenance=0`` or ``maintenance=1``: more than one key blinds the field's readers."""
    if block.rstrip(b"\0") not in (b"maintenance=0", b"maintenance=1", b""):
        raise Fault(FaultCode.ARGUMENT, "slot 0: expected exactly maintenance=0 or maintenance=1")


def check_record(host_id: int, block: bytes) -> None:
    """What is no valid record of this host would make every reader's life hard; blank is a cleaned slot."""
    if block == BLANK:
        return
    if not block.isascii():
        raise Fault(FaultCode.ARGUMENT, f"slot {host_id}: expected ASCII only")
    slot = decode(host_id, block)
    if isinstance(slot, Record):
        return
    reason = f"{slot.reason} {slot.detail}".strip() if isinstance(slot, Invalid) else "begins with NUL"
    raise Fault(FaultCode.ARGUMENT, f"slot {host_id}: expected a host's record, found {reason}")


def shown(args: Tuple[Any, ...]) -> str:
    """Arguments for the log: short, and without the bytes of a slot."""
    parts = [f"{len(value)} bytes" if isinstance(value, bytes) else repr(value)[:80] for value in args]
    return "(" + ", ".join(parts) + ")"
