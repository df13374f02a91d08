"""Whether this host may start the VM now, and the states from EngineDown until it is healthy.

A start needs every check of this module to be silent. Each one that is not names its reason, all of them are
published: the operator sees everything that stands in the way, not the first thing only.
"""

from typing import Callable, Iterator, List, Optional, Tuple

from ovirt_he_ha.core import leaving, liveness, notes
from ovirt_he_ha.core.draft import Draft
from ovirt_he_ha.core.fencing import WORRYING
from ovirt_he_ha.core.fitness import is_unfenced, own_card
from ovirt_he_ha.core.liveness import Peer
from ovirt_he_ha.core.model import (
    Action,
    ActionKind,
    ActionReport,
    Exit,
    HostLease,
    LeaseOwner,
    Outcome,
    Reason,
    State,
    Vm,
)
from ovirt_he_ha.core.reasons import reason
from ovirt_he_ha.core.score import TOO_MANY_RETRIES
from ovirt_he_ha.core.situation import (
    Situation,
    is_fresh,
    lease_text,
    peer_lease_conflicts,
)

Step = Tuple[State, bool]

_CLAIMING = (State.ENGINE_START.value, State.ENGINE_STARTING.value)
RESTARTING = "restarting"

# --- the states ---------------------------------------------------------------------------------------------------


def engine_down(sit: Situation, d: Draft) -> Step:
    """The VM is not here. Start it, or say what stands against it."""
    if sit.vm_here:
        d.because("adopted")
        return State.ENGINE_STARTING, True
    if d.carried.own_start_at is not None:
        return State.ENGINE_STARTING, True
    if leaving.must_hand_over(sit, d):
        return leaving.hand_over(sit, d), True
    _expire_restart(sit, d)
    against = objections(sit, d)
    if not against and d.act(Action(ActionKind.START, deadline=sit.timers.start_deadline)):
        return _start(sit, d), False
    for why in against:
        d.say(why)
    _say_last_start(d)
    d.phase = _waiting_phase(d, against)
    return State.ENGINE_DOWN, False


def engine_start(sit: Situation, d: Draft) -> Step:
    """START was ordered; its report decides."""
    if sit.vm_here or d.note(notes.STARTED) is not None:
        return State.ENGINE_STARTING, True
    if sit.is_running(ActionKind.START):
        d.because("start-running")
        d.ahead_of_action()
        d.phase = "starting"
        return State.ENGINE_START, False
    # The report is lost (the order was not taken): look again, the lease and the budgets are what protects.
    d.keep(own_start_at=None)
    return State.ENGINE_DOWN, True


def not_up_yet(sit: Situation, d: Draft) -> Step:
    """EngineStarting and the VM is not seen here. Upstream powers it off now; ours waits for evidence (a reported
    end) or for the grace to end, and has nothing to destroy either way."""
    started = d.carried.own_start_at
    if started is None:
        return State.ENGINE_DOWN, True
    if leaving.own_start_end(sit, d) is not Exit.NONE:
        return leaving.depart(sit, d), True
    since = d.note(notes.STARTED)
    limit = (started if since is None else since) + sit.timers.away_limit
    if sit.is_running(ActionKind.START) or sit.now < limit:
        d.because("starting")
        d.phase = "starting"
        d.ahead("grace", limit)
        return State.ENGINE_STARTING, False
    d.start_failed("never-came-up")
    return State.ENGINE_DOWN, True


def _start(sit: Situation, d: Draft) -> State:
    owner = sit.snapshot.leases.owner.value
    d.because("start", lease="free" if owner is None or owner.host_id == 0 else f"left by host {owner.host_id}")
    if own_card(sit, d.carried, State.ENGINE_DOWN).score <= 0:
        d.because("last-resort")
    d.keep(own_start_at=sit.now)
    d.drop_notes(
        notes.RESTART_AT,
        notes.CRASH_BACKOFF,
        notes.LOST_RACE,
        notes.STARTED,
        notes.SEEN_HERE,
        notes.AWAY,
        notes.EXIT_KNOWN,
    )
    if sit.exit_at is not None:
        d.put_note(notes.EXIT_KNOWN, sit.exit_at)
    d.phase = "starting"
    return State.ENGINE_START


def _expire_restart(sit: Situation, d: Draft) -> None:
    """A same-host restart that could not happen for the liveness limit: peers no longer wait for it, ranks decide
    again."""
    at = d.note(notes.RESTART_AT)
    if at is not None and sit.now > at + sit.timers.liveness_limit:
        d.drop_notes(notes.RESTART_AT, notes.CRASH_BACKOFF)


def _say_last_start(d: Draft) -> None:
    if d.carried.start_problem == "never-came-up":
        d.because("never-came-up")
    elif d.carried.start_problem:
        d.because(d.carried.start_problem, detail=d.carried.start_detail)


def _waiting_phase(d: Draft, against: List[Reason]) -> str:
    if d.note(notes.RESTART_AT) is not None:
        return RESTARTING if d.note(notes.CRASH_BACKOFF) is None else "crash-backoff"
    return against[0].code if against else "waiting"


# --- the report of a start ------------------------------------------------------------------------------------------

_FAILURES = {
    Outcome.REFUSED: "start-refused",
    Outcome.FAILED: "start-failed",
    Outcome.OVERDUE: "start-overdue",
}


def settle(sit: Situation, d: Draft, report: ActionReport) -> None:
    """Account for a START that finished, in whatever state this host is now."""
    if report.outcome is Outcome.OK or sit.vm_here:
        d.put_note(notes.STARTED, sit.now)
        return
    if report.outcome is Outcome.LOST_RACE:
        d.keep(own_start_at=None, hold_down_until=None)
        d.put_note(notes.LOST_RACE, sit.now + sit.timers.lost_race_retry)
    else:
        d.start_failed(_FAILURES.get(report.outcome or Outcome.FAILED, "start-failed"), report.detail)
    if d.state in (State.ENGINE_START, State.ENGINE_STARTING):
        d.enter(State.ENGINE_DOWN)


def track(sit: Situation, d: Draft) -> None:
    """Clocks that run in every state: since when the lease could be had, nobody else could start, a peer claims to
    be starting."""
    lease_free = lease_objection(sit) is None
    if lease_free and sit.view.baseline:
        d.keep(startable_since=sit.now if d.carried.startable_since is None else d.carried.startable_since)
    elif owner_known(sit):
        # An unreadable owner keeps the clock: it forbids the start by itself, and must not send this host to the end
        # of the queue.
        d.keep(startable_since=None)
    alone = sit.view.baseline and _is_nobody_else_able(sit, lease_free)
    d.keep(no_peer_since=(sit.now if d.carried.no_peer_since is None else d.carried.no_peer_since) if alone else None)
    budgets = d.carried.budgets
    if budgets.start_failures and sit.now >= budgets.next_start_at + sit.timers.start_backoff_max:
        d.spend(start_failures=0)
        d.keep(start_problem="", start_detail="")
    _track_claims(sit, d)


def _is_nobody_else_able(sit: Situation, lease_free: bool) -> bool:
    """No eligible live host, or none that could have the lease: its record is of this life of this host, which sanlock
    believes as long as we live, and only a start here writes it anew. Score 0 for the others' sake would keep the VM
    down for 600 s, or for as long as its cause lasts."""
    return not sit.view.eligible or (lease_free and _is_lease_ours(sit))


def _track_claims(sit: Situation, d: Draft) -> None:
    claiming = {f"{notes.CLAIM}{peer.host_id}" for peer in sit.view.peers.values() if _claims(peer)}
    d.drop_notes(*(name for name in d.carried.notes if name.startswith(notes.CLAIM) and name not in claiming))
    for name in sorted(claiming):
        if d.note(name) is None:
            d.put_note(name, sit.now)


def _claims(peer: Peer) -> bool:
    """A live peer that is about to start the VM: an upstream or ours in its starting states, or ours restarting
    after a crash."""
    record = peer.record
    if not peer.alive or record is None or (record.engine is not None and record.engine.vm is Vm.UP):
        return False
    return record.get("state") in _CLAIMING or record.get("phase") == RESTARTING


# --- what stands against a start --------------------------------------------------------------------------------------


def objections(sit: Situation, d: Draft) -> List[Reason]:
    """Everything that forbids a start now, the most important first; empty: start."""
    return [why for check in _CHECKS for why in check(sit, d)]


def _maintenance(sit: Situation, d: Draft) -> Iterator[Reason]:
    if sit.snapshot.global_maintenance.value is True:
        yield reason("global-maintenance")
    elif sit.hands_off:
        yield reason("global-maintenance-unknown", why=sit.snapshot.global_maintenance.unknown)
    local = sit.snapshot.host.local_maintenance
    if local.value is True:
        yield reason("local-maintenance")
    elif not local.known:
        yield reason("local-maintenance-unknown", why=local.unknown)


def _here(sit: Situation, d: Draft) -> Iterator[Reason]:
    if sit.facts is None:
        yield reason("engine-unknown", why=sit.engine_unknown)
    elif sit.facts.incoming:
        yield reason("incoming-migration")
    if d.fence is not None or sit.snapshot.fencing:
        yield reason("fencing", why=sit.snapshot.fencing or "paused")


def _guarded(sit: Situation, d: Draft) -> Iterator[Reason]:
    for name, state in sit.missing_lockspaces:
        yield reason("lockspace", name=name, state=state)
    if sit.snapshot.host.definition_problem:
        yield reason("definition", problem=sit.snapshot.host.definition_problem)
    if sit.snapshot.host.lease is None:
        yield reason("lease-unset")
    for peer in peer_lease_conflicts(sit):
        theirs = peer.record.get("lease") if peer.record else ""
        yield reason("lease-mismatch", host=peer.host_id, theirs=theirs, ours=lease_text(sit.snapshot.host.lease))
    if is_unfenced(sit):
        yield reason("unfenced")
    if sit.snapshot.leases.reset_within is not None:
        yield reason("reset-pending")
    if sit.view.too_new:
        yield reason("too-new", hosts=_listed(sit.view.too_new))


def _renewed(sit: Situation, d: Draft) -> Iterator[Reason]:
    """The guard counts from sanlock's last renewal, also from one before the copy that it guards: after a minute in
    which all hosts were without storage the VM would be started to be killed 6 io_timeouts after that renewal, and a
    crash be counted. Half of that time must be left, in which sanlock renews again (every 2)."""
    leases = sit.snapshot.leases
    if not sit.holds(leases.lockspace):
        return  # said already
    if leases.renewed_ago is None:
        yield reason("renewal-unknown")
    elif leases.renewed_ago >= WORRYING * leases.io_timeout:
        yield reason("renewal-late", seconds=f"{leases.renewed_ago:.0f}")


def _elsewhere(sit: Situation, d: Draft) -> Iterator[Reason]:
    for peer in liveness.engine_elsewhere(sit.view):
        yield reason("engine-up-elsewhere", host=peer.host_id, hostname=_name(peer))
    stopped = liveness.suppressed_by(sit.view, sit.snapshot.leases, sit.timers)
    if stopped is not None:
        yield reason("stopped-peer-runs", host=stopped)
    if not sit.view.baseline:
        if sit.view.baseline_in is not None:
            d.ahead("baseline", sit.now + sit.view.baseline_in)
        yield reason("no-baseline", why=sit.view.no_baseline, hosts=_listed(sit.view.waiting) or "nobody")


def _lease(sit: Situation, d: Draft) -> Iterator[Reason]:
    why = lease_objection(sit)
    if why is None:
        return
    leases = sit.snapshot.leases
    if why.code == "lease-held" and leases.owner_silent is not None:
        due = sit.now - leases.owner_silent + 8 * leases.io_timeout + leases.watchdog
        # Over, and sanlock has yet to look: untold, it would pass for a silence that has hardly begun.
        d.ahead("lease", max(due, sit.now + 1.0) if why.values["flag"] in liveness.UNTIL_DEAD else due)
    ends = liveness.left_later_ends(leases)
    if why.code == "lease-held" and ends is not None:
        d.ahead("lease", sit.now + ends)
    yield why


def _waits(sit: Situation, d: Draft) -> Iterator[Reason]:
    budgets = d.carried.budgets
    if budgets.next_start_at > sit.now:
        d.ahead("start-backoff", budgets.next_start_at)
        yield reason("start-backoff", failures=budgets.start_failures)
    lost = d.note(notes.LOST_RACE)
    if lost is not None and lost > sit.now:
        d.ahead("lost-race", lost)
        yield reason("lost-race")
    restart = d.note(notes.RESTART_AT)
    if restart is not None and restart > sit.now:
        d.ahead("restart", restart)
        yield reason("crash-restart" if d.note(notes.CRASH_BACKOFF) is None else "crash-backoff")


def _turn(sit: Situation, d: Draft) -> Iterator[Reason]:
    card = own_card(sit, d.carried, State.ENGINE_DOWN)
    last_resort = False
    if card.score <= 0:
        last_resort = _is_last_resort(sit, d)
        if not last_resort:
            if d.carried.budgets.handed_over_until > sit.now:
                d.ahead("hand-over-end", d.carried.budgets.handed_over_until)
            if card.zero_reason == TOO_MANY_RETRIES and d.carried.no_peer_since is None:  # the last resort comes first
                d.ahead("retries-forgotten", d.carried.budgets.next_start_at + sit.timers.start_backoff_max)
            yield reason("score-zero", why=card.zero_reason or "penalties")
            if d.carried.no_peer_since is not None:
                yield reason("last-resort-wait")
            return
    yield from _claimed(sit, d, card.score)
    if d.note(notes.RESTART_AT) is None:
        yield from _rank(sit, d, card.score, last_resort)


def _is_last_resort(sit: Situation, d: Draft) -> bool:
    since = d.carried.no_peer_since
    if since is None:
        return False
    d.ahead("last-resort", since + sit.timers.last_resort)
    return sit.now >= since + sit.timers.last_resort


def _claimed(sit: Situation, d: Draft, score: int) -> Iterator[Reason]:
    """A peer that is starting the VM is waited for, at most for the liveness limit. A claim that has just appeared
    counts only if its host comes before us: otherwise two hosts that decide in the same second would stop each other
    for ever."""
    for peer in (peer for _, peer in sorted(sit.view.peers.items())):
        since = d.note(f"{notes.CLAIM}{peer.host_id}")
        if since is None or sit.now - since >= sit.timers.liveness_limit:
            continue
        if since < sit.now or (-peer.score, peer.host_id) < (-score, sit.own_id):
            d.ahead("peer-starting", since + sit.timers.liveness_limit)
            yield reason("peer-starting", host=peer.host_id, hostname=_name(peer))


def _rank(sit: Situation, d: Draft, score: int, last_resort: bool) -> Iterator[Reason]:
    before = liveness.rank(sit.own_id, score, sit.view, last_resort)
    since = d.carried.startable_since
    if not before or (since is not None and sit.now >= since + sit.timers.liveness_limit and _is_lease_ours(sit)):
        return
    turn = None if since is None else since + before * sit.timers.rank_step
    if turn is not None and sit.now >= turn:
        return
    if turn is not None and since is not None:
        d.ahead("rank", min(turn, since + sit.timers.liveness_limit) if _is_lease_ours(sit) else turn)
    best = liveness.best_peer(sit.view)
    yield reason(
        "rank",
        count=before,
        host=best.host_id if best else "",
        hostname=_name(best) if best else "",
        score=best.score if best else 0,
        wait=f"{before * sit.timers.rank_step:g}",
    )


def _is_lease_ours(sit: Situation) -> bool:
    """The record on disk is of this life of this host: its end could not be written. While we live sanlock refuses the
    lease to everybody else, so there is nobody to go first; 249 better hosts would be waited for for an hour. Asked a
    minute after the lease became startable: the record that was read before a copy's orderly end, which gives the lease
    to the better host, looks the same."""
    owner, generation = sit.snapshot.leases.owner.value, sit.snapshot.leases.own_generation
    if owner is None or generation is None or not owner_known(sit):
        return False
    return (owner.host_id, owner.generation) == (sit.own_id, generation)


_Check = Callable[[Situation, Draft], Iterator[Reason]]

_CHECKS: Tuple[_Check, ...] = (_maintenance, _here, _guarded, _renewed, _elsewhere, _lease, _waits, _turn)


def owner_known(sit: Situation) -> bool:
    return is_fresh(sit.snapshot.leases.owner, sit.timers)


def lease_objection(sit: Situation) -> Optional[Reason]:
    """Why the VM's lease cannot be had now; None: a start would get it without waiting.

    Only sanlock's word on the owner counts. A start while the owner is LIVE or FAIL would block libvirt for up to
    160 s, and an owner that sanlock does not list is unknown, not dead, unless it is known how it left.
    """
    reading = sit.snapshot.leases.owner
    if reading.value is None or not owner_known(sit):
        return reason("lease-unknown", why=reading.unknown or "stale")
    owner = reading.value.host_id
    if owner == 0:
        return None
    if owner == sit.own_id:
        # Our own record without a VM: left by an earlier boot, or by a release that only cleared the id. sanlock
        # grants it again.
        if sit.facts is not None and sit.facts.pid is None and not sit.vm_here:
            return None
        return reason("lease-own-process", pid=sit.facts.pid if sit.facts is not None else "?")
    flag = sit.flags.get(owner)
    left_it = liveness.owner_has_left(sit.snapshot.leases, sit.flags)
    if flag is HostLease.DEAD or left_it or _owner_came_back(sit, reading.value):
        return None
    word = flag.value if flag else "unlisted"
    left = sit.snapshot.leases.owner_left
    if flag is None and left is not None:
        word = f"free under generation {left} (the lease: {reading.value.generation})"
    return reason("lease-held", host=owner, flag=word)


def _owner_came_back(sit: Situation, owner: LeaseOwner) -> bool:
    """The owner's host is back under a newer generation of its id and says itself that the VM is not there: the
    record on disk is of its earlier life, and sanlock grants the lease at once. Without this a host that reboots
    into maintenance would keep the VM down for ever. Its own word is needed: a host whose sanlock was restarted has
    a newer generation too, and may still run the VM."""
    peer = sit.view.peers.get(owner.host_id)
    if peer is None or peer.record is None or not peer.alive or not peer.record.extra_ok:
        return False
    engine = peer.record.engine
    if engine is None or engine.vm in (Vm.UP, Vm.UNKNOWN):
        return False
    generation = peer.record.get("gen")
    return generation.isascii() and generation.isdigit() and int(generation[:12]) > owner.generation


def _listed(ids: Tuple[int, ...]) -> str:
    return ",".join(str(host_id) for host_id in ids[:20])


def _name(peer: Peer) -> str:
    return peer.record.hostname if peer.record is not None else "?"
