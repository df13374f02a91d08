"""Where everything lies on a host. One root for all of it, so that a lab host or a test has a tree of its own."""

import os
from pathlib import Path
from typing import Mapping, Optional, Union


class HostPaths:
    """The paths of one host. ``root`` is ``/`` on a real one; the lab and the tests give a directory of their own."""

    def __init__(self, root: Union[str, Path] = "/") -> None:
        self.root = Path(root)
        etc = self.root / "etc"
        self.hosted_engine_conf = etc / "ovirt-hosted-engine" / "hosted-engine.conf"
        self.answers_conf = etc / "ovirt-hosted-engine" / "answers.conf"
        self.config_dir = etc / "ovirt-hosted-engine-ha"
        self.agent_conf = self.config_dir / "agent.conf"
        self.agent_log_conf = self.config_dir / "agent-log.conf"
        self.broker_log_conf = self.config_dir / "broker-log.conf"
        self.notifications_dir = self.config_dir / "notifications"
        self.state_dir = self.root / "var" / "lib" / "ovirt-hosted-engine-ha"
        self.ha_conf = self.state_dir / "ha.conf"
        self.broker_conf = self.state_dir / "broker.conf"
        self.agent_state = self.state_dir / "agent-state.json"
        self.ovf_seen = self.state_dir / "ovf-store.json"
        self.ledger = self.state_dir / "ledger.jsonl"
        self.recording_dir = self.state_dir / "recording"
        # /var/run is a link to /run on every distribution we run on: the socket's path is the one that peers' tools
        # know.
        self.run_dir = self.root / "run" / "ovirt-hosted-engine-ha"
        self.broker_socket = self.run_dir / "broker.socket"
        self.host_shutdown = self.run_dir / "host-shutdown"
        self.vm_conf = self.run_dir / "vm.conf"
        self.vm_conf_fallback = self.run_dir / "vm.conf.fallback"
        # Where the storage domain is mounted (the place that oVirt uses), and what is mounted at all.
        self.mount_root = self.root / "rhev" / "data-center" / "mnt"
        self.mount_table = self.root / "proc" / "self" / "mountinfo"
        # Written by root alone, when it connects the storage: which copy of the domain this host knows, and what of a
        # block domain only root can ask for.
        self.storage_identity = self.root / "var" / "lib" / "ovirt-ha-storage" / "identity.json"
        self.storage_record = self.root / "run" / "ovirt-ha-storage" / "block-domain.json"
        self.storage_turn = self.root / "run" / "ovirt-ha-storage" / "turn"
        self.storage_refusal = self.root / "run" / "ovirt-ha-storage" / "refused"
        # libvirt's: which lock manager its daemon uses, and which process that is (monolithic, or one per driver).
        self.qemu_conf = etc / "libvirt" / "qemu.conf"
        self.libvirt_pid_files = tuple(self.root / "run" / name for name in ("libvirtd.pid", "virtqemud.pid"))
        self.log_dir = self.root / "var" / "log" / "ovirt-hosted-engine-ha"

    @classmethod
    def from_env(cls, environ: Optional[Mapping[str, str]] = None) -> "HostPaths":
        """The root named by OVIRT_HE_ROOT; ``/`` when it is unset or empty."""
        source = os.environ if environ is None else environ
        return cls(source.get("OVIRT_HE_ROOT") or "/")

    def __repr__(self) -> str:
        return f"HostPaths({str(self.root)!r})"
