"""Why, in codes and in English: every reason and every countdown a decision can carry.

A code is data (published, compared, tested); the sentence is for people and may change. Both travel in the free text
of a slot as ``why.N=`` and ``why.next.N=``, so that any host can explain what another one waits for.
"""

import re
from types import MappingProxyType
from typing import Dict, Iterable, List, Mapping, Optional, Tuple
from urllib.parse import quote, unquote

from ovirt_he_ha.core.model import Countdown, Reason, Record

# code -> sentence. ``{name}`` is a value of the reason; a value that is not there shows as "?".
REASONS: Mapping[str, str] = MappingProxyType(
    {
        # --- this host's maintenance and the cluster's
        "global-maintenance": "Global maintenance: nothing is started, stopped or moved",
        "global-maintenance-unknown": "Slot 0 is unreadable ({why}): nothing is started, stopped or moved",
        "local-maintenance": "This host is in local maintenance: it does not start the VM",
        "local-maintenance-unknown": "ha.conf cannot be read ({why}): treated as maintenance for starting",
        "host-shutdown": "This host goes down: the VM is moved or stopped before",
        "agent-stopped": "The agent was told to stop",
        "reinitializing": "Looking at everything anew before deciding",
        # --- knowing enough to start
        "no-baseline": "Not every known host is established ({why}; waiting for {hosts})",
        "engine-unknown": "The VM's state on this host is unknown ({why})",
        "engine-up-elsewhere": "The VM runs on {hostname} (host {host})",
        "peer-starting": "{hostname} (host {host}) is starting the VM",
        "stopped-peer-runs": "The agent of host {host} was stopped cleanly and its VM runs on: its lease is live",
        "incoming-migration": "The VM is being migrated to this host",
        "too-new": "Host {hosts} publishes a newer format: update this host before it may start the VM",
        # --- the guard
        "lockspace": "This host does not hold lockspace {name}: {state}",
        "definition": "The VM's definition is refused: {problem}",
        "lease-unset": "The lease that guards the VM could not be computed",
        "lease-mismatch": "Host {host} guards the VM with another lease: {theirs}, here {ours}",
        "lease-unknown": "The owner of the VM's lease is unknown ({why})",
        "lease-held": "The VM's lease belongs to host {host}, which is {flag} for sanlock",
        "lease-own-process": "The VM's lease is ours and its process still exists (pid {pid})",
        "unfenced": "No armed watchdog, and allow-unfenced is not set",
        "renewal-late": "sanlock renewed this host's id {seconds} s ago: with its next renewal a start may be tried",
        "renewal-unknown": "sanlock does not say when it last renewed this host's id",
        "reset-pending": "sanlock died with this host's lockspace: the watchdog resets the host soon",
        # --- whose turn it is
        "score-zero": "This host's score is 0 ({why})",
        "rank": "{count} better host(s) come first, {hostname} (host {host}) with {score} points",
        "last-resort": "No other host can start it: starting at score 0 as the last resort",
        "last-resort-wait": "No other host can start it: waiting before starting at score 0",
        "handed-over": "This host handed the VM over and stays at score 0 for a while",
        # --- starting
        "start": "Starting the VM: the lease is {lease}",
        "starting": "The VM was started, waiting until its health is good",
        "start-running": "The start is under way",
        "action-running": "The order to {action} of {seconds} s ago has not returned: no other action meanwhile",
        "start-failed": "The last start failed: {detail}",
        "start-refused": "The last start was refused: {detail}",
        "start-overdue": "The last start did not return in time: {detail}",
        "start-backoff": "{failures} failed start(s) in a row: waiting before the next",
        "lost-race": "The lease was somebody else's: not a failure, looking again",
        "never-came-up": "The VM was started and never appeared",
        "never-healthy": "The VM was not healthy {seconds} s after it started",
        "adopted": "The VM already runs here: taken over as it is",
        # --- leaving
        "crash": "The VM crashed ({exit}), {count} time(s) within {window} s",
        "crash-restart": "Restarting the crashed VM on this host",
        "crash-hand-over": "Too many crashes here: handing the VM over",
        "crash-backoff": "Too many crashes and no eligible peer: waiting before the next start",
        "guest-shutdown": "The guest was shut down from inside: restarting it (maintenance keeps it down)",
        "requested-stop": "The VM was stopped on request on this host",
        "lease-lost": "The VM died because its lease was lost",
        "migrated-away": "The VM was migrated away from this host",
        "away": "The VM left this host and may run elsewhere: its lease is held by host {host}",
        "away-lost": "The VM left this host and did not appear elsewhere",
        # --- running
        "up": "The VM runs here and is healthy",
        "bad-health": "The VM runs here and its health is bad for {seconds} s",
        "health-unknown": "The VM runs here, its health is unknown",
        "up-elsewhere-too": "{hostname} (host {host}) publishes the VM as up while it runs here: ignored",
        "fencing": "The VM's process on this host is being killed: {why}",
        "fence-stuck": "The VM's process here cannot be killed: the watchdog has to reset the host",
        "guard-gone": "This host's sanlock is gone: nobody guards the VM here",
        "guard-unconfirmed": "sanlock has not renewed this host's lease for {seconds} s",
        "guard-unknown-process": "The VM's process (pid {pid}) is not registered with this host's sanlock",
        "guard-no-lease": "The VM's process (pid {pid}) does not hold the VM's lease; its owner: {owner}",
        "guard-other-owner": "The VM's lease belongs to host {owner} ({generation}), not to this one: {host} ({ours})",
        "guard-never-ran": "The VM's process (pid {pid}) holds the lease for {seconds} s and no CPU of it has run: "
        "nobody will let it run",
        "guard-slept": "This host slept for {seconds} s while the VM was here",
        "guard-blind": "sanlock's answer is not understood: whether the VM here is guarded is not known",
        "paused-tolerated": "The VM is paused ({why})",
        "hung": "The VM hangs ({signal}): restarting it",
        "hung-doubt": "The health page is bad, but so is this host's own network: no restart on the page alone",
        "hung-budget": "The VM hangs ({signal}), but was restarted {count} times within an hour already",
        # --- moving
        "migrating": "Migrating the VM to host {host}",
        "migration-failed": "Migration failed {tries} time(s): {detail}",
        "migration-error": "Migration given up after {tries} tries: {detail}",
        "migration-overdue": "Migration is past its deadline: aborting it",
        "migration-foreign": "Somebody else migrates the VM",
        "no-target": "No host can take the VM",
        "better-peer": "{hostname} (host {host}) is better by {gap} points",
        "network-lost-by-most": "Most hosts get no answer of the network test either: the VM stays here",
        "moves-exhausted": "A better host exists, but the VM was moved {count} times within an hour already",
        "stopping": "Stopping the VM: {why}",
        "stop-cancelled": "No host can take the VM any more: it stays here",
        "power-off": "Powering the VM off: {why}",
        "power-off-failed": "The VM could not be powered off: {detail}",
        # --- this host
        "no-publish": "This host's slot is not written: its id is not proven ({state})",
        "publish-failed": "This host's slot was not written for {seconds} s",
        "storage": "The shared volume: {problem}",
        "overwritten": "Somebody else wrote this host's slot",
        "state-file": "The agent's state file cannot be written ({problem}): a restart would forget failed starts",
        "ledger": "The ledger cannot be written ({problem}): --history and --audit miss what happens meanwhile",
    }
)

COUNTDOWNS: Mapping[str, str] = MappingProxyType(
    {
        "reinitialize": "this host has looked at everything anew",
        "join": "sanlock has joined the lockspaces",
        "baseline": "every known host is established",
        "rank": "this host's turn to start",
        "reset-pending": "the watchdog has reset this host, or will not",
        "last-resort": "start at score 0 as the last resort",
        "lease": "the owner's lease can be dead",
        "start-backoff": "next start",
        "retries-forgotten": "failed starts are forgotten, and this host counts again",
        "action-deadline": "the action under way is given up",
        "lost-race": "next look at the lease",
        "restart": "restart on this host",
        "hand-over-end": "this host counts again",
        "peer-starting": "the peer's start is no longer waited for",
        "grace": "the started VM must have appeared",
        "starting-limit": "the VM is stopped unless it is healthy",
        "hung": "the VM counts as hung",
        "hung-signal": "the VM counts as hung if it makes no progress or its guest agent is dead as well",
        "better-peer": "move to the better host",
        "move-budget": "the next move is allowed",
        "hung-budget": "the next restart of a hung VM is allowed",
        "migration-deadline": "the migration is aborted",
        "migration-retry": "next migration attempt",
        "host-shutdown": "this host goes down",
        "destination-ack": "the destination must have published the VM",
        "away": "the VM counts as lost",
        "power-off": "the VM is powered off",
        "fence": "the paused VM is killed",
        "guard-kill": "the VM's process here is killed, its guard being lost",
    }
)

_NONE: Mapping[str, str] = MappingProxyType({})

WHY = "why."
NEXT = "why.next."
_LONGEST_VALUE = 80
_SAFE = " ,:/()+"
_PLAIN = re.compile(r"[A-Za-z0-9_.~ ,:/()+-]*")  # what is not quoted
# Enough for a reader, small enough for the 3,584 bytes that all the free text shares.
_MOST_PUBLISHED = 12


class _Values(Dict[str, str]):
    def __missing__(self, key: str) -> str:
        return "?"


def reason(code: str, **values: object) -> Reason:
    """A reason; the values become text. A code that is not registered is a mistake in the program: KeyError."""
    if code not in REASONS:
        raise KeyError(code)
    return Reason(code, MappingProxyType({key: str(value) for key, value in values.items()}) if values else _NONE)


def countdown(event: str, at: float, **values: object) -> Countdown:
    """A countdown to ``at`` (monotonic seconds). An event that is not registered is a mistake in the program:
    KeyError."""
    if event not in COUNTDOWNS:
        raise KeyError(event)
    return Countdown(event, at, MappingProxyType({key: str(value) for key, value in values.items()}))


def describe(why: Reason) -> str:
    """One line of English. An unknown code (of a newer host) is shown as it is, with its values."""
    template = REASONS.get(why.code)
    if template is None:
        return " ".join([why.code, *(f"{key}={value}" for key, value in why.values.items())])
    return filled(template, why.values)


def filled(template: str, values: Mapping[str, str]) -> str:
    """The text with its ``{name}`` filled in; a value that is not there shows as "?"."""
    return template.format_map(_Values(values))


def describe_countdown(what: Countdown, now: float) -> str:
    """``in 12 s: this host's turn to start``; whole seconds, rounded up, never negative."""
    text = COUNTDOWNS.get(what.event, what.event)
    return f"in {max(0, -int(-(what.at - now) // 1))} s: {text}"


def encode_reason(why: Reason) -> str:
    """``code;key=value;key=value``, percent-encoded ASCII without ``;`` ``=`` ``|`` or line ends in a value."""
    return ";".join([_quoted(why.code), *_pairs(why.values)])


def decode_reason(text: str) -> Optional[Reason]:
    """The reason in ``text``, or None when there is none. Never raises: the text comes from another host."""
    code, values = _parsed(text)
    return Reason(code, values) if code else None


def encode_countdown(what: Countdown, now: float) -> str:
    """As a reason; ``in`` holds the seconds left at ``now``, because a monotonic moment means nothing to another
    host."""
    return ";".join([_quoted(what.event), f"in={max(0.0, what.at - now):.0f}", *_pairs(what.values)])


def decode_countdown(text: str, now: float) -> Optional[Countdown]:
    """The countdown in ``text``, counted from ``now`` of the reader. None when there is none or it has no number."""
    event, values = _parsed(text)
    left = values.get("in", "")
    if not event or not left.isascii() or not left.isdigit():
        return None
    rest = {key: value for key, value in values.items() if key != "in"}
    return Countdown(event, now + int(left[:9]), MappingProxyType(rest))


def published(why: Iterable[Reason], what: Iterable[Countdown], now: float) -> Tuple[Tuple[str, str], ...]:
    """The ``why.N=`` and ``why.next.N=`` lines of a slot, the most important first."""
    lines = [(f"{WHY}{n}", encode_reason(r)) for n, r in enumerate(list(why)[:_MOST_PUBLISHED])]
    lines += [(f"{NEXT}{n}", encode_countdown(c, now)) for n, c in enumerate(list(what)[:_MOST_PUBLISHED])]
    return tuple(lines)


def from_record(record: Record, now: float) -> Tuple[Tuple[Reason, ...], Tuple[Countdown, ...]]:
    """What another host says of itself; lines that make no sense are left out."""
    why: List[Reason] = []
    what: List[Countdown] = []
    for key, value in record.extra:
        if key.startswith(NEXT):
            ahead = decode_countdown(value, now)
            what += [ahead] if ahead else []
        elif key.startswith(WHY):
            because = decode_reason(value)
            why += [because] if because else []
    return tuple(why), tuple(what)


def _quoted(text: str) -> str:
    short = text[:_LONGEST_VALUE]
    return short if _PLAIN.fullmatch(short) else quote(short, safe=_SAFE, errors="replace")


def _pairs(values: Mapping[str, str]) -> List[str]:
    return [f"{_quoted(key)}={_quoted(value)}" for key, value in values.items()]


def _parsed(text: str) -> Tuple[str, Mapping[str, str]]:
    code, *pairs = text.split(";")
    values: Dict[str, str] = {}
    for pair in pairs:
        key, found, value = pair.partition("=")
        if found and key:
            values[unquote(key, errors="replace")] = unquote(value, errors="replace")
    return unquote(code, errors="replace").strip(), MappingProxyType(values)
