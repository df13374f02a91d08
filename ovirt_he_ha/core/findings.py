"""What the protection meter can find, in codes and in English: the sentence, and what to do about it.

A code is data (published, logged, compared); the two texts are for people and may change.
"""

from dataclasses import replace
from types import MappingProxyType
from typing import Dict, Iterable, List, Mapping, NamedTuple, Tuple

from ovirt_he_ha.core.model import Finding, Level


class Words(NamedTuple):
    """``{hosts}`` is who it is about; other ``{names}`` are values, "?" where one is not there."""

    sentence: str
    mend: str


_TMPFILES = "`systemd-tmpfiles --create` on {hosts} lets the agent read libvirt's qemu.conf"

FINDINGS: Mapping[str, Words] = MappingProxyType(
    {
        # --- the cluster
        "global-maintenance": Words(
            "Global maintenance: nobody starts the VM again, whatever happens",
            "`hosted-engine --set-maintenance --mode=none` ends it",
        ),
        "global-flag-unknown": Words(
            "Whether the cluster is in global maintenance cannot be read ({why}): until then nothing is started",
            "`hosted-engine --vm-status` shows the volume's state; `--set-maintenance --mode=none` writes it anew",
        ),
        "view-old": Words(
            "What the hosts publish was last read by {hosts}: {age}",
            "look at the storage of {hosts}; `hosted-engine --protection` on another host",
        ),
        "no-spare": Words(
            "No other host can take the VM over: the loss of its host, or of that host's storage, is not recovered",
            "end maintenance (`hosted-engine --set-maintenance --mode=none` on a spare), mend what is said of the "
            "other hosts, or deploy one more",
        ),
        "vm-nowhere": Words(
            "No live host says that the VM runs on it",
            "`hosted-engine --vm-status` shows what each host waits for",
        ),
        "vm-unwatched": Words(
            "The VM runs on {hosts}, and no agent watches it there",
            "`systemctl start ovirt-ha-agent` on {hosts}",
        ),
        "vm-many": Words(
            "More than one host says that the VM runs on it: {hosts}",
            "`hosted-engine --audit` with the ledgers of these hosts; one of them may be late with its word",
        ),
        # --- the VM's guard on a host
        "watchdog-off": Words(
            "No watchdog is armed on {hosts}: a host that hangs with the VM may write to its disk later",
            "enable wdmd, and use_watchdog = 1 in /etc/sanlock/sanlock.conf on {hosts}; then reboot it",
        ),
        "watchdog-unknown": Words(
            "Whether a watchdog is armed is not known of {hosts}",
            "`systemctl status sanlock wdmd` on {hosts}; a host that has just joined knows within a minute",
        ),
        "lease-missing": Words(
            "The VM's definition has not this deployment's lease ({problem}), say {hosts}: no host starts it",
            "give the VM's disk its lease back in the management application, so that it writes the definition anew",
        ),
        "definition-refused": Words(
            "The VM's definition is refused ({problem}) by {hosts}: no start there",
            "the agent's journal names the element (`journalctl -u ovirt-ha-agent`); correct the VM in the management "
            "application. The disk must be raw and on the shared storage",
        ),
        "definition-unknown": Words(
            "The VM's definition was not read yet by {hosts}",
            "wait a minute; then `journalctl -u ovirt-ha-agent` on {hosts} says why it cannot be read",
        ),
        "running-without-lease": Words(
            "The copy that runs on {hosts} was started without the lease: nothing keeps a second one from starting",
            "shut it down there (`hosted-engine --vm-shutdown`); the agents start it with its lease",
        ),
        "lock-manager-off": Words(
            "libvirt's lock manager is {found} on {hosts}: a VM would start there without its lease",
            'lock_manager = "sanlock" in /etc/libvirt/qemu.conf on {hosts}, then restart libvirtd (the VM runs on)',
        ),
        "lock-manager-stale": Words(
            "libvirt's daemon runs on {hosts} since before its qemu.conf changed: whether it uses sanlock is not known",
            "restart libvirtd (or virtqemud) on {hosts}; the VM runs on",
        ),
        "lock-manager-unknown": Words("Whether libvirt's lock manager is on is not known of {hosts}", _TMPFILES),
        "audit-failed": Words(
            "The VM's process on {hosts} is not guarded ({why}) and is killed unless that ends",
            "look at sanlock and the storage of {hosts}; `journalctl -u ovirt-ha-agent` there",
        ),
        "audit-pending": Words(
            "The ownership of the VM's lease is not verified on {hosts} ({state})",
            "during a start or a move this passes within 30 s; else look at the storage of {hosts}",
        ),
        "not-in-lockspace": Words(
            "This host's sanlock does not see {hosts} alive in the storage domain's lockspace: other storage there, "
            "or no lockspace",
            "look at sanlock and the mount of the storage domain on {hosts}: `sanlock client status`",
        ),
        "lockspace-unknown": Words(
            "Whether {hosts} renews its id in the storage domain's lockspace is not known yet to this host's sanlock",
            "wait a minute: sanlock must see a renewal first, one comes every 20 s",
        ),
        # --- what must be equal
        "timeouts-differ": Words(
            "sanlock's timeouts are not equal: {found}",
            "the same io_timeout and watchdog_fire_timeout in /etc/sanlock/sanlock.conf on all hosts; then local "
            "maintenance and a reboot, one host after the other",
        ),
        "timeouts-unknown": Words(
            "sanlock's timeouts are not known of {hosts}",
            "`hosted-engine --vm-status` on {hosts}: it must hold its lockspace",
        ),
        "lease-differs": Words(
            "The hosts guard the VM with different leases: {found}",
            "compare sdUUID, vm_disk_vol_id and storage in /etc/ovirt-hosted-engine/hosted-engine.conf of {hosts}",
        ),
        "deployment-differs": Words(
            "hosted-engine.conf is not equal: {found}",
            "compare /etc/ovirt-hosted-engine/hosted-engine.conf (all but host_id); then restart the agents of {hosts}",
        ),
        "score-differs": Words(
            "The penalties in agent.conf [score] are not equal: {found}",
            "the same /etc/ovirt-hosted-engine-ha/agent.conf [score] on {hosts}, then restart their agents",
        ),
        "timers-differ": Words(
            "The agents' timers are not equal: {found}",
            "install the same version on {hosts}",
        ),
        "settings-unknown": Words(
            "Whether the configuration is equal is not known of {hosts}", "update {hosts} to this version"
        ),
        "clocks-differ": Words(
            "The wall clocks are not equal: {found}. No decision depends on it; journals, ledgers and certificates do",
            "`chronyc tracking` on {hosts}",
        ),
        # --- hosts that cannot take the VM
        "host-dead": Words(
            "Nothing was heard of {hosts} for 60 s: no spare",
            "start it again, or `hosted-engine --clean-metadata --host-id=N` for one that is gone for good",
        ),
        "host-silent": Words(
            "{hosts} missed two publishes: lost, or its storage is slow", "`hosted-engine --vm-status` in a minute"
        ),
        "host-stopped": Words(
            "The agent of {hosts} was stopped: no spare", "`systemctl start ovirt-ha-agent` on {hosts}"
        ),
        "host-maintenance": Words(
            "{hosts} in local maintenance: no spare", "`hosted-engine --set-maintenance --mode=none` on {hosts}"
        ),
        "host-score": Words(
            "The score of {hosts} is 0 ({why}): no spare", "`hosted-engine --vm-status` shows what is wrong there"
        ),
        "host-unreadable": Words(
            "The slot of {hosts} cannot be read ({why}): no spare",
            "its owner writes it anew when its agent runs; of a host that is gone: `hosted-engine --clean-metadata "
            "--host-id=N`",
        ),
        "host-foreign": Words(
            "{hosts} cannot tell of watchdog, lock manager and timeouts: oVirt's own agent, or no checksum",
            "install this package there; until then look at `sanlock client status` and qemu.conf on {hosts}",
        ),
        "host-problem": Words(
            "{hosts} has a problem: {problems}", "`hosted-engine --vm-status` on {hosts} says more; journalctl as well"
        ),
        # --- worth knowing
        "half-updated": Words(
            "Agent {agent} and broker {broker} on {hosts} are of different versions",
            "`systemctl restart ovirt-ha-broker ovirt-ha-agent` on {hosts}; the VM runs on",
        ),
        "versions-differ": Words("Versions are not equal: {found}", "finish the update, one host after the other"),
        "no-live-move": Words(
            "No spare can take the running VM by live migration: planned moves stop it",
            "[migration] address in agent.conf of the spares; their CPU must be that of the VM's host",
        ),
        "one-network": Words(
            "Live migration has no network of its own: after the loss of the management network the VM is stopped and "
            "started elsewhere",
            "[migration] address in agent.conf on a second network",
        ),
    }
)

_ORDER = (Level.UNPROTECTED, Level.DEGRADED, Level.UNKNOWN, Level.NOTE)
_MOST_PUBLISHED = 300  # characters in the slot


class _Values(Dict[str, str]):
    def __missing__(self, key: str) -> str:
        return "?"


def found(code: str, level: Level, hosts: Iterable[int] = (), **values: object) -> Finding:
    """A code that is not registered is a mistake in the program: KeyError."""
    if code not in FINDINGS:
        raise KeyError(code)
    texts = MappingProxyType({key: str(value) for key, value in values.items()})
    return Finding(code, level, tuple(sorted(hosts)), texts)


def describe(finding: Finding, names: Mapping[int, str]) -> Tuple[str, str]:
    """The sentence and what to do. ``names``: of hosts, by id."""
    words = FINDINGS[finding.code]
    who = ", ".join(names.get(host_id, f"host {host_id}") for host_id in finding.hosts)
    values = _Values({**finding.values, "hosts": who or "?"})
    sentence = words.sentence.format_map(values)
    return sentence[:1].upper() + sentence[1:], words.mend.format_map(values)


def by_severity(findings: Iterable[Finding]) -> Tuple[Finding, ...]:
    """The worst first, in each level by code and host: an order that does not depend on who looks. What is the same of
    several hosts is one finding."""
    alike: Dict[Tuple[object, ...], List[Finding]] = {}
    for one in findings:
        alike.setdefault((one.code, one.level, tuple(one.values.items())), []).append(one)
    merged = [replace(same[0], hosts=tuple(sorted({h for one in same for h in one.hosts}))) for same in alike.values()]
    return tuple(sorted(merged, key=lambda one: (_ORDER.index(one.level), one.code, one.hosts)))


def overall(findings: Iterable[Finding]) -> Level:
    levels = {finding.level for finding in findings}
    if Level.UNPROTECTED in levels:
        return Level.UNPROTECTED
    return Level.DEGRADED if levels & {Level.DEGRADED, Level.UNKNOWN} else Level.PROTECTED


def short(finding: Finding) -> str:
    """``code`` or ``code:1.3``: for the slot, the ledger and the journal."""
    hosts = ".".join(map(str, finding.hosts[:20]))
    return f"{finding.code}:{hosts}" if hosts else finding.code


def published(level: Level, findings: Iterable[Finding]) -> Tuple[Tuple[str, str], ...]:
    """The two lines of the slot, the worst first; what is too long is cut between two."""
    text = ""
    for finding in findings:
        if finding.level is Level.NOTE:
            continue
        longer = f"{text},{short(finding)}" if text else short(finding)
        if len(longer) > _MOST_PUBLISHED:
            break
        text = longer
    return ("prot", level.value), ("prot.why", text)
