"""Keeps one management VM alive on a set of hypervisors, with shared storage and libvirt as the only ground."""

__version__ = "0.1.0"
