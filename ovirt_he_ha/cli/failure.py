"""Any exception as a refusal: what happened, and what to do next."""

import os
import re
import sys
import traceback

from ovirt_he_ha.cli.request import Refusal
from ovirt_he_ha.client.link import BrokerFault, BrokerUnavailable
from ovirt_he_ha.config.text import ConfigError

_PRIVILEGED = "Run this as root or as the user vdsm"
_BROKER_NEXT = {
    "no-socket": "Is ovirt-ha-broker running? (systemctl status ovirt-ha-broker)",
    "refused": "ovirt-ha-broker has ended; see its journal (journalctl -u ovirt-ha-broker)",
    "not-allowed": _PRIVILEGED,
    "overdue": "ovirt-ha-broker is busy or stuck; see its journal (journalctl -u ovirt-ha-broker)",
}


def explain(error: Exception) -> Refusal:
    """A Refusal as it is; the errors of the layers below with their next step; anything else named as a defect of
    ours. With HOSTED_ENGINE_TRACE set the trace goes to standard error, for whoever reports it."""
    if os.environ.get("HOSTED_ENGINE_TRACE"):
        traceback.print_exception(type(error), error, error.__traceback__, file=sys.stderr)
    if isinstance(error, Refusal):
        return error
    if isinstance(error, ConfigError):
        return Refusal("configuration", _with_hint(error, str(error)))
    if isinstance(error, BrokerUnavailable):
        hint = _BROKER_NEXT.get(error.code, "See its journal (journalctl -u ovirt-ha-broker)")
        return Refusal("broker-" + error.code, f"{error}. {hint}")
    if isinstance(error, BrokerFault):
        return Refusal("broker-fault", str(error))
    if isinstance(error, ImportError):
        return Refusal("missing-module", f"{error}. README.md names the packages this program needs")
    if isinstance(error, OSError):
        return Refusal("system", _with_hint(error, _told(error)))
    if type(error).__module__.startswith("ovirt_he_ha."):
        return Refusal(_code(type(error).__name__), _with_hint(error, str(error)))
    return Refusal(
        "internal",
        f"internal error: {type(error).__name__}: {error}. This is a defect of ours; HOSTED_ENGINE_TRACE=1 shows where",
    )


def _told(error: OSError) -> str:
    if error.filename is None or not error.strerror:
        return str(error)
    return f"{os.fsdecode(error.filename)}: {error.strerror}"


def _with_hint(error: Exception, text: str) -> str:
    """What is not allowed may be allowed to another user."""
    cause = error if isinstance(error, PermissionError) else error.__cause__ or error.__context__
    return f"{text}. {_PRIVILEGED}" if isinstance(cause, PermissionError) else text


def _code(name: str) -> str:
    """``DomainProblem`` as ``domain-problem``."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", name).lower()
