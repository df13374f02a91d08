"""Monitor values as the texts that the field's agents read: one text per monitor type."""

import json
from typing import Callable, Dict, Mapping

from ovirt_he_ha.core.model import EngineFacts, Monitors, Reading

NOTHING = "None"
GOOD_LATENCY = 10.0  # seconds: above it the storage domain counts as bad in the field


def _flag(reading: "Reading[bool]") -> str:
    return NOTHING if reading.value is None else str(reading.value)


def _network(monitors: Monitors) -> str:
    # Their agent turns the text into a float without asking; before a result theirs says 1.0 too.
    return "1.0" if monitors.network.value is None else str(float(monitors.network.value))


def _memory(monitors: Monitors) -> str:
    return NOTHING if monitors.mem_free.value is None else str(monitors.mem_free.value)


def _load(monitors: Monitors) -> str:
    return NOTHING if monitors.cpu_load.value is None else f"{monitors.cpu_load.value:.4f}"


def _storage(monitors: Monitors) -> str:
    reading = monitors.storage_latency
    if reading.value is None:
        return NOTHING if reading.unknown == "not-yet" else "False"
    return str(reading.value <= GOOD_LATENCY)


def _engine(monitors: Monitors) -> str:
    return NOTHING if monitors.engine.value is None else engine_text(monitors.engine.value)


def engine_text(facts: EngineFacts) -> str:
    """The JSON object of strings; other tools search for the exact text ``"vm": "up"``."""
    status = facts.status
    members = {"vm": status.vm.value, "health": status.health.value, "detail": status.detail}
    if status.reason:
        members["reason"] = status.reason
    return json.dumps(members)


TYPES: Mapping[str, Callable[[Monitors], str]] = {
    "network": _network,
    "mgmt-bridge": lambda monitors: _flag(monitors.bridge),
    "mem-free": _memory,
    "cpu-load-no-engine": _load,
    "cpu-load": _load,
    "engine-health": _engine,
    "storage-domain": _storage,
}


def texts(monitors: Monitors) -> Dict[str, str]:
    """The text of every type."""
    return {name: text(monitors) for name, text in TYPES.items()}
