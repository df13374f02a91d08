"""All durations of the product in one table: name, default, range, and what follows from it.

Everything is in product seconds (wall seconds outside the lab) unless the comment says otherwise. The order of a
row: default, lowest and highest value that :meth:`Timers.check` accepts. Rules *between* rows are checked there too: a
daemon calls it at start and refuses to run with a table that breaks one.
"""

from dataclasses import dataclass, field, fields
from typing import Any, Callable, List, Mapping, Tuple

# The aims that the rows below must add up to, in seconds from fault to recovery (the appliance's own boot not counted).
CRASH_BOUND = 10.0
HUNG_BOUND = 120.0
HUNG_ALONE_BOUND = 300.0
NETWORK_BOUND = 90.0
NETWORK_DETECT_BOUND = 20.0
SUPERVISE_BOUND = 5.0
COLD_BOUND = 90.0


def _row(default: Any, low: float, high: float) -> Any:
    """One row. A tuple's range holds for each of its items."""
    return field(default=default, metadata={"low": low, "high": high})


@dataclass(frozen=True)
class Timers:
    """The table. Read it as ``timers.cycle``; a test or a faster profile uses ``dataclasses.replace``."""

    # --- the loop -------------------------------------------------------------------------------------------------
    # One decision and one published slot at least this often. Upstream peers call us dead after 60 s without a change:
    # at 10 s five cycles may be lost before that.
    cycle: float = _row(10.0, 1.0, 15.0)
    # The snapshot must be together by then, or the cycle decides on what it has; a hung broker costs 5 s, not the loop.
    collect_deadline: float = _row(5.0, 1.0, 15.0)
    # One RPC. Shorter than the collection it is a part of.
    rpc_deadline: float = _row(5.0, 1.0, 15.0)
    # Our slot is written again after this long even if nothing changed: 10 s as upstream does it.
    publish_keepalive: float = _row(10.0, 1.0, 15.0)
    # A daemon that is told to stop is gone by then, whatever hangs; systemd would kill it at 90 s.
    stop_limit: float = _row(5.0, 1.0, 5.0)
    # systemd's RestartSec: a killed daemon runs again in 2 s plus its own start, supervised <= 5 s.
    supervise_restart: float = _row(2.0, 0.0, 5.0)

    # --- the shared volume ----------------------------------------------------------------------------------------
    # A host whose slot has not changed for this long is not alive. Shorter: a slow cycle reads as a dead host. Longer:
    # a dead host is waited for (sanlock's 140 s count beside it, and only where the lease was its own).
    liveness_limit: float = _row(60.0, 30.0, 120.0)
    # Slots are read this often while the engine is well, ...
    slot_read_well: float = _row(10.0, 1.0, 15.0)
    # ... and this often while it is not: rank and `down` are learnt at most 2 s after they were written, the read
    # itself and a late thread included.
    slot_read_alert: float = _row(1.8, 0.5, 10.0)
    # All 2,001 slots (8 MB): a host that sanlock does not list is found after 10 minutes at the latest.
    full_scan: float = _row(600.0, 60.0, 3600.0)
    # Reading or writing one slot. Overdue: storage counts as lost for this cycle and the worker is abandoned.
    io_deadline: float = _row(5.0, 1.0, 10.0)
    # Slots and sanlock's host list older than this are no ground for a start: two reads missed and a third overdue.
    facts_stale: float = _row(25.0, 5.0, 60.0)

    # --- leases ---------------------------------------------------------------------------------------------------
    # sanlock's host list while waiting for a dead owner: the start comes at most this late after DEAD.
    lease_poll: float = _row(1.0, 0.5, 2.0)
    # The same list otherwise, and the audit of the owner on disk while the VM runs here: a stolen lease lives <= 5 s.
    owner_audit: float = _row(5.0, 1.0, 5.0)
    # sanlock's status (its memory) and the processes of this host, while the VM runs here: what the guard acts on is
    # this old at most.
    guard_poll: float = _row(2.0, 0.5, 2.5)
    # Nobody listens at sanlock's socket for so long: the VM's process is killed. Its guard cannot come back (a new
    # daemon does not know the process); the wait is for doubt only. The first foreign start is 140 s away.
    guard_gone: float = _row(5.0, 1.0, 10.0)
    # A process that sanlock does not know: libvirt registers it before it becomes qemu, so this is for doubt only.
    guard_newborn: float = _row(2.0, 0.0, 5.0)
    # From the process's birth until its CPUs start, with the lease: a second or two, more on a busy host. Our own start
    # is waited for by itself; this is for everybody else's. Longer: one started without a lease lives that long.
    guard_young: float = _row(10.0, 2.0, 30.0)
    # From the lease to the first work of a virtual CPU: milliseconds. A copy that holds the lease for so long without
    # is one that nobody lets run: its libvirtd died or hangs in between, and until it is back no other host can start
    # the VM. Longer than what a host that swaps needs.
    guard_standing: float = _row(20.0, 5.0, 60.0)
    # A copy that waits for its memory has no lease: 888 s for 24 GiB at the slowest migration we accept.
    incoming_limit: float = _row(900.0, 120.0, 3600.0)
    # A paused VM holds no lease, so another host may start it from the first second: 5 s until its process is gone.
    paused_kill: float = _row(5.0, 1.0, 5.0)
    # The only pause we accept: our own migration's switch-over. 30 s is 60 times the usual 0.5 s.
    own_migration_pause: float = _row(30.0, 5.0, 30.0)

    # --- monitors -------------------------------------------------------------------------------------------------
    # libvirt status and health page.
    engine_poll: float = _row(5.0, 1.0, 15.0)
    # One HTTP request; later the page counts as bad. Upstream waits 20 s.
    health_timeout: float = _row(5.0, 1.0, 20.0)
    # One round of five probes, 0.5 s apart.
    network_round: float = _row(10.0, 3.0, 15.0)
    probe_timeout: float = _row(2.0, 0.5, 5.0)
    # The score sees the mean CPU load over this long, as upstream: a burst of a minute costs 1/15 of the penalty.
    load_history: float = _row(900.0, 60.0, 3600.0)

    # --- starting -------------------------------------------------------------------------------------------------
    # Nobody else could start the VM for so long (no eligible live host, or the lease's record is this host's own): a
    # host at score 0 starts by rank. Longer than liveness: a peer that only restarts its agent is not overtaken.
    last_resort: float = _row(120.0, 60.0, 600.0)
    # Rank r waits r times this after the lease became startable: the better host's slot shows its start first.
    rank_step: float = _row(15.0, 5.0, 60.0)
    # A start that failed: again after 10, 20, 40 ... 600 s. What can never start costs one try in 10 minutes.
    start_backoff_first: float = _row(10.0, 1.0, 60.0)
    start_backoff_max: float = _row(600.0, 60.0, 3600.0)
    # The lease was somebody else's: no failure, look again.
    lost_race_retry: float = _row(10.0, 1.0, 30.0)
    # libvirt's create with a free lease: seconds. It returns or is abandoned by then, and counts as a failed start.
    start_deadline: float = _row(60.0, 20.0, 300.0)
    # A VM that runs but was never healthy gets 10 minutes (file-system checks, database recovery) before it is stopped.
    starting_limit: float = _row(600.0, 120.0, 3600.0)
    # ACPI shutdown of a VM that may take its time; then power off.
    stop_limit_vm: float = _row(300.0, 30.0, 900.0)
    # Killing a stopped qemu process took libvirt 10 s; then the power-off counts as failed and is ordered again.
    power_off_deadline: float = _row(30.0, 15.0, 120.0)
    # The VM left without a word: it may be on its way to a peer. Then it counts as unexpectedly down.
    away_limit: float = _row(40.0, 10.0, 120.0)

    # --- crashes --------------------------------------------------------------------------------------------------
    # Restarts on the same host in one window (a count): the third crash in 10 minutes hands the VM over.
    crash_restarts: int = _row(2, 0, 10)
    crash_window: float = _row(600.0, 60.0, 3600.0)
    # The first restart comes at once, the second after this.
    crash_second_delay: float = _row(10.0, 0.0, 60.0)
    # Score 0 for so long: every peer has read it and the next rank has started.
    score_zero_after_crash: float = _row(60.0, 30.0, 600.0)
    # No eligible peer: the same host goes on, with these waits, the last one for ever.
    crash_backoff: Tuple[float, ...] = _row((30.0, 60.0, 120.0, 300.0), 1.0, 3600.0)
    # Healthy for so long: crashes and back-off are forgotten.
    healthy_reset: float = _row(600.0, 60.0, 3600.0)
    # `up` stays published for so long after a crash: upstream peers start at once when they read `down`. Longer than
    # 5 s would hide a dead VM from them for a whole cycle.
    down_hold: float = _row(5.0, 0.0, 5.0)

    # --- a hung engine --------------------------------------------------------------------------------------------
    # Health bad for 60 s and an independent signal, or for 260 s on the page alone: then the VM is restarted. With the
    # looks before it (20 s), a guest that ignores the power button (15 s) and the start it is back within 300 s.
    hung_health: float = _row(60.0, 30.0, 300.0)
    hung_alone: float = _row(260.0, 120.0, 3600.0)
    # A VM younger than this is still booting.
    hung_min_uptime: float = _row(300.0, 60.0, 3600.0)
    # Restarts of a hung engine in one hour (a count): a broken database is not healed by the fourth.
    hung_per_hour: int = _row(3, 0, 10)

    # --- moving ---------------------------------------------------------------------------------------------------
    # A peer is better if its score is higher by this (points, as upstream) for this long, at most so often per hour.
    better_gap: int = _row(800, 1, 3400)
    better_for: float = _row(60.0, 10.0, 600.0)
    moves_per_hour: int = _row(2, 0, 10)
    # Three attempts, 30 and 60 s apart; then an error state with the VM still running here.
    migration_tries: int = _row(3, 1, 10)
    migration_retry: Tuple[float, ...] = _row((30.0, 60.0), 1.0, 600.0)
    # Deadline of one attempt: 120 s, and 1 s per 32 MiB of guest memory (a count of MiB per second, not seconds).
    migration_base: float = _row(120.0, 30.0, 600.0)
    migration_mib_per_second: float = _row(32.0, 1.0, 4096.0)
    # The source publishes `Migration Source` until it reads the destination's `up`, or for 20 s: peers never see no VM.
    destination_ack: float = _row(20.0, 5.0, 60.0)
    # ACPI before destroy in a cold hand-over: the database gets 15 s of the 90 s that a network loss may cost.
    acpi_stop: float = _row(15.0, 1.0, 60.0)
    # An orderly shutdown of the VM's host waits for so long at the most until the VM has moved or ended; 600 s move
    # 15 GiB at the slowest migration that we accept. systemd's limit in ovirt-ha-host-shutdown.service is 30 s longer.
    host_shutdown: float = _row(600.0, 60.0, 3600.0)
    # Of that, what is kept for a guest that did not move: to shut down by itself, before it is powered off.
    host_shutdown_stop: float = _row(60.0, 15.0, 300.0)

    def check(self) -> Tuple[str, ...]:
        """Every violated range and rule, as a sentence with the values; empty when the table is sound."""
        return tuple(self._out_of_range()) + tuple(text for text, holds in _RULES if not holds(self))

    def _out_of_range(self) -> List[str]:
        found = []
        for row in fields(self):
            low, high = row.metadata["low"], row.metadata["high"]
            value = getattr(self, row.name)
            items = value if isinstance(value, tuple) else (value,)
            if not items or not all(low <= item <= high for item in items):
                found.append(f"{row.name} is {value!r}, expected {low:g} to {high:g}")
        return found

    def migration_deadline(self, memory_mib: int) -> float:
        """Seconds that one migration of a guest with so many MiB may take."""
        return self.migration_base + memory_mib / self.migration_mib_per_second

    def migration_wait(self, failed_tries: int) -> float:
        """Seconds to wait after so many failed attempts (1 or more)."""
        return self.migration_retry[min(max(failed_tries, 1), len(self.migration_retry)) - 1]

    def crash_wait(self, step: int) -> float:
        """Seconds of back-off at this step (0 is the first); the last one for ever."""
        return self.crash_backoff[min(max(step, 0), len(self.crash_backoff) - 1)]

    def start_wait(self, failures: int) -> float:
        """Seconds to wait after so many failed starts in a row: 0 failures 0 s, then doubling up to the maximum."""
        if failures <= 0:
            return 0.0
        return min(self.start_backoff_max, self.start_backoff_first * 2.0 ** min(failures - 1, 32))


def _ascending(values: Tuple[float, ...]) -> bool:
    return all(a <= b for a, b in zip(values, values[1:]))


_Rule = Tuple[str, Callable[[Timers], bool]]

_RULES: Tuple[_Rule, ...] = (
    # What keeps live hosts alive in each other's eyes.
    ("cycle + collect_deadline < liveness_limit", lambda t: t.cycle + t.collect_deadline < t.liveness_limit),
    ("slot_read_well + cycle < liveness_limit", lambda t: t.slot_read_well + t.cycle < t.liveness_limit),
    (
        "publish_keepalive + io_deadline + slot_read_well < liveness_limit",
        lambda t: t.publish_keepalive + t.io_deadline + t.slot_read_well < t.liveness_limit,
    ),
    ("publish_keepalive <= cycle + collect_deadline", lambda t: t.publish_keepalive <= t.cycle + t.collect_deadline),
    # A part is not longer than the whole.
    ("rpc_deadline <= collect_deadline", lambda t: t.rpc_deadline <= t.collect_deadline),
    ("io_deadline < slot_read_well", lambda t: t.io_deadline < t.slot_read_well),
    ("slot_read_well + io_deadline < facts_stale", lambda t: t.slot_read_well + t.io_deadline < t.facts_stale),
    ("facts_stale < liveness_limit", lambda t: t.facts_stale < t.liveness_limit),
    ("slot_read_alert <= slot_read_well", lambda t: t.slot_read_alert <= t.slot_read_well),
    ("slot_read_well < full_scan", lambda t: t.slot_read_well < t.full_scan),
    ("lease_poll <= owner_audit", lambda t: t.lease_poll <= t.owner_audit),
    ("2 guard_poll <= owner_audit", lambda t: 2 * t.guard_poll <= t.owner_audit),
    ("start_backoff_first <= start_backoff_max", lambda t: t.start_backoff_first <= t.start_backoff_max),
    ("lost_race_retry <= start_backoff_max", lambda t: t.lost_race_retry <= t.start_backoff_max),
    ("crash_backoff never gets shorter", lambda t: _ascending(t.crash_backoff)),
    ("migration_retry never gets shorter", lambda t: _ascending(t.migration_retry)),
    # Safety: a copy without a lease is gone before a peer of the next rank starts; the exception is the longer one.
    ("paused_kill < rank_step", lambda t: t.paused_kill < t.rank_step),
    ("paused_kill < own_migration_pause", lambda t: t.paused_kill < t.own_migration_pause),
    ("own_migration_pause < away_limit", lambda t: t.own_migration_pause < t.away_limit),
    # A decision of one host reaches the others before they act on its absence.
    ("slot_read_alert + cycle <= rank_step", lambda t: t.slot_read_alert + t.cycle <= t.rank_step),
    ("slot_read_alert + cycle <= destination_ack", lambda t: t.slot_read_alert + t.cycle <= t.destination_ack),
    (
        "slot_read_well + cycle + rank_step <= score_zero_after_crash",
        lambda t: t.slot_read_well + t.cycle + t.rank_step <= t.score_zero_after_crash,
    ),
    ("liveness_limit + rank_step < last_resort", lambda t: t.liveness_limit + t.rank_step < t.last_resort),
    (
        "host_shutdown_stop + power_off_deadline <= host_shutdown",
        lambda t: t.host_shutdown_stop + t.power_off_deadline <= t.host_shutdown,
    ),
    # No false alarm.
    ("hung_health < hung_alone", lambda t: t.hung_health < t.hung_alone),
    ("engine_poll + health_timeout < hung_health", lambda t: t.engine_poll + t.health_timeout < t.hung_health),
    ("hung_min_uptime <= starting_limit", lambda t: t.hung_min_uptime <= t.starting_limit),
    ("crash_second_delay < crash_window", lambda t: t.crash_second_delay < t.crash_window),
    ("crash_window <= healthy_reset", lambda t: t.crash_window <= t.healthy_reset),
    ("2 + probe_timeout < network_round (five probes 0.5 s apart)", lambda t: 2 + t.probe_timeout < t.network_round),
    # The aims: the rows that a recovery consists of stay within its bound.
    ("down_hold < 10 s, the bound of a crash", lambda t: t.down_hold < CRASH_BOUND),
    ("supervise_restart < 5 s, the bound of supervision", lambda t: t.supervise_restart < SUPERVISE_BOUND),
    ("network_round + cycle <= 20 s to detect", lambda t: t.network_round + t.cycle <= NETWORK_DETECT_BOUND),
    (
        "network_round + 2 cycle + slot_read_well + acpi_stop <= 90 s, the bound of a network loss",
        lambda t: t.network_round + 2 * t.cycle + t.slot_read_well + t.acpi_stop <= NETWORK_BOUND,
    ),
    (
        "hung_health + engine_poll + health_timeout + cycle + acpi_stop <= 120 s, the bound of a hung engine",
        lambda t: t.hung_health + t.engine_poll + t.health_timeout + t.cycle + t.acpi_stop <= HUNG_BOUND,
    ),
    (
        "hung_alone + engine_poll + health_timeout + cycle + acpi_stop <= 300 s, its bound on the page alone",
        lambda t: t.hung_alone + t.engine_poll + t.health_timeout + t.cycle + t.acpi_stop <= HUNG_ALONE_BOUND,
    ),
)


def announced_bounds(io_timeout: int = 10, watchdog: int = 60) -> Mapping[str, float]:
    """Seconds from a fault to the recovery that we announce, by fault; sanlock's ``io_timeout`` and the watchdog's fire
    timeout in seconds.

    Where the lease of a dead owner must run out, sanlock bounds it from below by ``8 * io_timeout + watchdog``;
    ``10 * io_timeout + watchdog + 2`` (162 s at the default) was above every takeover measured. A drill allows 5 s more
    for the start itself. ``cold``: all hosts power on at once; a join takes ``2 * io_timeout`` and a second.
    """
    takeover = 10.0 * io_timeout + watchdog + 2.0
    return {
        "host-loss": takeover,
        "sanlock-kill": takeover,
        "storage-loss": takeover,
        "vm-crash": CRASH_BOUND,
        "hung-engine": HUNG_BOUND,
        "hung-engine-alone": HUNG_ALONE_BOUND,
        "network-loss": NETWORK_BOUND,
        "agent-kill": SUPERVISE_BOUND,
        "broker-kill": SUPERVISE_BOUND,
        "libvirtd-kill": SUPERVISE_BOUND,
        "cold": COLD_BOUND + 2.0 * io_timeout + 2.0,
    }
