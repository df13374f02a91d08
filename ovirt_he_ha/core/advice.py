"""What each reason means for what comes next: does it hold something up, what ends that, and what can the operator do.

The sentence of a code is in ``reasons.py``; here stands the rest of what is said about it. ``{name}`` is a value of the
reason, as there.
"""

from types import MappingProxyType
from typing import Mapping, NamedTuple, Tuple

from ovirt_he_ha.core.model import Reason
from ovirt_he_ha.core.reasons import filled

SAYS = "says"  # how things stand; nothing is held up by it
TIME = "time"  # holds the next step up until a moment that is known
EVENT = "event"  # holds it up until something happens; a timer of it is the latest, or the expected, moment
FAULT = "fault"  # something is wrong here; whatever it holds up has a code of its own


class Word(NamedTuple):
    """``until``: what ends it, as a clause after "until". ``do``: what the operator can do, empty: nothing is to be
    done. ``timers``: the countdowns that end it; the first of them that is there counts."""

    kind: str
    until: str = ""
    do: str = ""
    timers: Tuple[str, ...] = ()


_WATCH = "See the agent's journal (journalctl -u ovirt-ha-agent) and libvirt's log of the VM"
_NONE_MODE = "hosted-engine --set-maintenance --mode=none ends it"
_STORAGE = "Look at the storage and at this host's way to it"
_SANLOCK = "Look at sanlock on that host (sanlock client status)"
_LIBVIRT = "Look at libvirtd on that host (systemctl status libvirtd)"

ADVICE: Mapping[str, Word] = MappingProxyType(
    {
        # --- maintenance
        "global-maintenance": Word(EVENT, "global maintenance is ended", _NONE_MODE),
        "global-maintenance-unknown": Word(
            EVENT, "slot 0 can be read", "hosted-engine --set-maintenance --mode=none or --mode=global writes it anew"
        ),
        "local-maintenance": Word(EVENT, "local maintenance is ended on that host", f"There: {_NONE_MODE}"),
        "local-maintenance-unknown": Word(EVENT, "ha.conf can be read", "Mend ha.conf on that host"),
        "host-shutdown": Word(
            EVENT,
            "that host is up again",
            "If it does not go down after all: hosted-engine --host-shutdown --cancel there",
        ),
        "agent-stopped": Word(EVENT, "the agent is started", "There: systemctl start ovirt-ha-agent"),
        "reinitializing": Word(TIME, "this host has looked at everything once", timers=("reinitialize",)),
        # --- knowing enough to start
        "no-baseline": Word(
            EVENT,
            "{hosts} is heard of, is free or dead for sanlock, or stays silent",
            "If one of these hosts is gone for good: hosted-engine --clean-metadata --host-id=N",
            ("baseline",),
        ),
        "engine-unknown": Word(EVENT, "libvirt on that host tells whether the VM is there", _LIBVIRT),
        "engine-up-elsewhere": Word(EVENT, "host {host} no longer publishes the VM as up"),
        "peer-starting": Word(EVENT, "host {host} has the VM up, or gives up", timers=("peer-starting",)),
        "stopped-peer-runs": Word(
            EVENT, "host {host} gives the VM's lease back", "On host {host}: systemctl start ovirt-ha-agent"
        ),
        "incoming-migration": Word(EVENT, "the migration to that host has ended"),
        "too-new": Word(EVENT, "host {hosts} publishes a format that is known", "Update this host's packages"),
        # --- the guard
        "lockspace": Word(EVENT, "sanlock on that host holds lockspace {name}", _SANLOCK, ("join",)),
        "definition": Word(EVENT, "the VM's definition is accepted", "Mend the definition: {problem}"),
        "lease-unset": Word(EVENT, "the lease can be computed", "Check hosted-engine.conf on that host"),
        "lease-mismatch": Word(
            EVENT, "all hosts guard the VM with the same lease", "Compare hosted-engine.conf with host {host}"
        ),
        "lease-unknown": Word(EVENT, "the record of the VM's lease can be read", _STORAGE),
        "lease-held": Word(
            EVENT,
            "sanlock shows the lease of host {host} free or dead",
            "Is host {host} off, or reset? Else start its daemons",
            ("lease",),
        ),
        "lease-own-process": Word(EVENT, "process {pid} has ended", "Look at process {pid} on that host"),
        "unfenced": Word(
            EVENT,
            "sanlock has a watchdog, or allow-unfenced=yes is set",
            "Arm the watchdog (wdmd and its device), or accept the risk: allow-unfenced=yes in agent.conf",
        ),
        "renewal-late": Word(EVENT, "sanlock on that host renews its id", _STORAGE),
        "renewal-unknown": Word(
            EVENT, "sanlock on that host tells its renewals", f"{_SANLOCK}, and restart ovirt-ha-broker there"
        ),
        "reset-pending": Word(EVENT, "the watchdog has reset that host, or will not", timers=("reset-pending",)),
        # --- whose turn it is
        "score-zero": Word(
            EVENT,
            "the score is above 0 again",
            "Mend what makes the score 0: {why}",
            ("hand-over-end", "retries-forgotten", "last-resort"),
        ),
        "rank": Word(TIME, "it is this host's turn, {wait} s after the better ones", timers=("rank",)),
        "last-resort": Word(SAYS),
        "last-resort-wait": Word(SAYS),
        "handed-over": Word(TIME, "the other hosts had their turn", timers=("hand-over-end",)),
        # --- starting
        "start": Word(SAYS),
        "starting": Word(SAYS),
        "start-running": Word(EVENT, "libvirt answers", timers=("action-deadline",)),
        "action-running": Word(EVENT, "the order to {action} returns", timers=("action-deadline",)),
        "start-failed": Word(FAULT, do=_WATCH),
        "start-refused": Word(FAULT, do=_WATCH),
        "start-overdue": Word(FAULT, do=_LIBVIRT),
        "start-backoff": Word(TIME, "the wait after failed starts is over", _WATCH, ("start-backoff",)),
        "lost-race": Word(TIME, "the lease is looked at again", timers=("lost-race",)),
        "never-came-up": Word(FAULT, do=_WATCH),
        "never-healthy": Word(FAULT, do="Look at the guest: hosted-engine --console"),
        "adopted": Word(SAYS),
        # --- leaving
        "crash": Word(FAULT, do="See libvirt's log of the VM"),
        "crash-restart": Word(TIME, "the wait after a crash is over", timers=("restart",)),
        "crash-hand-over": Word(SAYS),
        "crash-backoff": Word(TIME, "the wait after many crashes is over", "See libvirt's log of the VM", ("restart",)),
        "guest-shutdown": Word(SAYS, do="To keep it down: hosted-engine --set-maintenance --mode=global first"),
        "requested-stop": Word(SAYS, do="To keep it down: hosted-engine --set-maintenance --mode=global first"),
        "lease-lost": Word(FAULT, do=_STORAGE),
        "migrated-away": Word(EVENT, "the destination publishes the VM", timers=("destination-ack",)),
        "away": Word(EVENT, "host {host} publishes the VM", timers=("away",)),
        "away-lost": Word(FAULT),
        # --- running
        "up": Word(SAYS),
        "bad-health": Word(FAULT, do="Look at the engine in the guest: hosted-engine --console"),
        "health-unknown": Word(FAULT, do="Is the engine's name resolved, and its page reachable, from that host?"),
        "up-elsewhere-too": Word(FAULT, do="If host {host} is wrong: restart ovirt-ha-broker there"),
        "fencing": Word(EVENT, "the VM's process there is gone"),
        "fence-stuck": Word(FAULT, do="Reset that host"),
        "guard-gone": Word(FAULT, do=_SANLOCK),
        "guard-unconfirmed": Word(FAULT, do=_STORAGE),
        "guard-unknown-process": Word(FAULT, do="Start the VM with hosted-engine --vm-start only"),
        "guard-no-lease": Word(FAULT, do="Start the VM with hosted-engine --vm-start only"),
        "guard-other-owner": Word(FAULT, do=_SANLOCK),
        "guard-never-ran": Word(FAULT, do=_LIBVIRT),
        "guard-slept": Word(FAULT, do="Do not suspend a host that runs the VM"),
        "guard-blind": Word(FAULT, do=_SANLOCK),
        "paused-tolerated": Word(EVENT, "it runs again", timers=("fence",)),
        "hung": Word(SAYS),
        "hung-doubt": Word(EVENT, "that host's own network is good again", "Look at that host's network"),
        "hung-budget": Word(
            EVENT,
            "an hour has passed since the first restart",
            "Look at the guest: hosted-engine --console",
            ("hung-budget",),
        ),
        # --- moving
        "migrating": Word(EVENT, "the migration has ended", timers=("migration-deadline",)),
        "migration-failed": Word(TIME, "the wait after a failed try is over", _WATCH, ("migration-retry",)),
        "migration-error": Word(
            EVENT, "there is no reason to move any more", "Stop the VM by hand, or end the maintenance"
        ),
        "migration-overdue": Word(FAULT, do="Look at the migration network"),
        "migration-foreign": Word(EVENT, "that migration has ended"),
        "no-target": Word(
            EVENT,
            "a host can take the VM",
            "Bring a second host up with a score above 0, or stop the VM by hand (hosted-engine --vm-shutdown)",
        ),
        "better-peer": Word(TIME, "it has been so for long enough", timers=("better-peer", "move-budget")),
        "network-lost-by-most": Word(
            EVENT,
            "most hosts get an answer of the network test again",
            "Look at the target of the network test (gateway, tcp_t_address in hosted-engine.conf)",
        ),
        "moves-exhausted": Word(TIME, "an hour has passed since the first move", timers=("move-budget",)),
        "stopping": Word(EVENT, "the guest has shut down", timers=("power-off",)),
        "stop-cancelled": Word(SAYS),
        "power-off": Word(EVENT, "the VM's process is gone"),
        "power-off-failed": Word(FAULT, do=_LIBVIRT),
        # --- this host
        "no-publish": Word(FAULT, do="Is this host's host_id used by another host? " + _SANLOCK),
        "publish-failed": Word(FAULT, do=_STORAGE),
        "storage": Word(FAULT, do=_STORAGE),
        "overwritten": Word(FAULT, do="Is this host's host_id used by another host?"),
        "state-file": Word(FAULT, do="Look at the disk under /var/lib/ovirt-hosted-engine-ha"),
        "ledger": Word(FAULT, do="Look at the disk under /var/lib/ovirt-hosted-engine-ha"),
    }
)

# Penalty -> its sentence; ``{value}`` as in the slot.
PENALTIES: Mapping[str, str] = MappingProxyType(
    {
        "network": "only {value} of the network probes are good (1 is all)",
        "bridge": "the management bridge is {value}",
        "cpu-load": "the mean CPU load is {value} (1 is all)",
        "memory": "{value} MiB are free of those that the VM needs",
        "retries": "{value} failed start(s) in a row",
        "conf": "the configuration is {value}",
    }
)

# What sets the score to 0 whatever the formula says -> its sentence.
ZEROES: Mapping[str, str] = MappingProxyType(
    {
        "reinitializing": "it looks at everything anew first",
        "handed-over": "it handed the VM over, and gives the others a minute",
        "local-maintenance": "it is in local maintenance",
        "local-maintenance-unknown": "its ha.conf cannot be read",
        "agent-stopped": "its agent was stopped",
        "too-new": "another host publishes a newer format",
        "lockspace": "it does not hold its lockspaces",
        "definition": "the VM's definition is refused there",
        "lease-unset": "the VM's lease could not be computed",
        "reset-pending": "the watchdog is about to reset it",
        "unfenced": "no watchdog is armed there",
        "lease-held": "the VM's lease belongs to a live host that says it does not run it",
        "retries": "too many failed starts in a row",
    }
)


def penalty(code: str, value: str) -> str:
    """Why a host loses points; a reading that is unknown costs none, and says so."""
    if value.startswith("unknown:"):
        return f"{code} is not measured ({value.partition(':')[2]}): it costs nothing"
    return filled(PENALTIES.get(code, code + " {value}"), {"value": value})


_UNKNOWN = Word(SAYS)


def word(code: str) -> Word:
    """A code of a newer host holds nothing up, as far as we know."""
    return ADVICE.get(code, _UNKNOWN)


def until(why: Reason) -> str:
    """What ends it; empty where nothing does."""
    return filled(word(why.code).until, why.values)


def to_do(why: Reason) -> str:
    """What the operator can do; empty: nothing."""
    return filled(word(why.code).do, why.values)
