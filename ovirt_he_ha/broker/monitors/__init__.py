"""What this host measures: one module per monitor, :class:`MonitorSet` over all of them."""

from ovirt_he_ha.broker.monitors.engine import EngineSource
from ovirt_he_ha.broker.monitors.monitor_set import MonitorSet
from ovirt_he_ha.broker.monitors.options import MonitorOptions, OptionError, UnknownMonitor
from ovirt_he_ha.broker.monitors.storage_latency import StorageLatency

__all__ = ["EngineSource", "MonitorOptions", "MonitorSet", "OptionError", "StorageLatency", "UnknownMonitor"]
