"""Deliberate breaks of the policy, each of which scenarios or the swarm must find.

    python tests/sim/mutations.py                 all of them; last line `N found, M not found`, exit status 0 or 1
    python tests/sim/mutations.py NAME ...        some of them
    python tests/sim/mutations.py --list          names and what they break

Each one is a small edit in a copy of the package. What is known to find it runs first, then every scenario, then so
many seeds of the swarm. No part of the test suite: it takes minutes.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import List, Optional, Tuple

ROOT = Path(__file__).resolve().parent.parent.parent
SCENARIOS = "tests/scenarios"
SEEDS = 300

PROGRAM = """
import sys
from ovirt_he_ha.sim import chance
from ovirt_he_ha.sim.run import run
from ovirt_he_ha.sim.scenario import load
from ovirt_he_ha.sim.trial import attempt
for name in sys.argv[2:]:
    if name.startswith("seed "):
        continue
    found = run(load("tests/scenarios/" + name)).complaints
    if found:
        print(f"{name}: {found[0]}")
        sys.exit(1)
for seed in [int(name[5:]) for name in sys.argv[2:] if name.startswith("seed ")] + list(range(int(sys.argv[1]))):
    broken = attempt(chance.scenario(seed)).violations
    if broken:
        print(f"seed {seed}: {broken[0]}")
        sys.exit(1)
"""


@dataclass(frozen=True)
class Mutation:
    """``file`` below the package; ``before`` stands there once. ``by``: the scenario, or ``seed N``, that finds it."""

    name: str
    what: str
    file: str
    before: str
    after: str
    by: str = ""


MUTATIONS: Tuple[Mutation, ...] = (
    Mutation(
        "paused-lives", "a paused copy is not killed", "core/guards.py",
        "    if paused <= tolerated:\n", "    if True:\n",
        by="paused-killed-at-once",
    ),
    Mutation(
        "paused-in-maintenance", "nor in global maintenance", "core/guards.py",
        "    if sit.facts is None or not sit.vm_here:\n        return\n    paused =",
        "    if sit.facts is None or not sit.vm_here or sit.hands_off:\n        return\n    paused =",
        by="paused-killed-at-once-in-maintenance",
    ),
    Mutation(
        "no-reset", "a paused copy that hangs in the kernel stays beside its successor", "core/fencing.py",
        "    if not stuck or f.blind or", "    if True or",
        by="paused-while-the-storage-hangs",
    ),
    Mutation(
        "lease-not-asked", "a start whoever owns the lease", "core/starting.py",
        "    owner = reading.value.host_id\n    if owner == 0:\n",
        "    owner = reading.value.host_id\n    if owner >= 0:\n",
        by="agent-stopped-then-power-loss",
    ),
    Mutation(
        "lease-of-the-failing", "an owner whose renewals fail counts as dead", "core/starting.py",
        "    if flag is HostLease.DEAD or", "    if flag in (HostLease.DEAD, HostLease.FAIL) or",
        by="agent-stopped-then-power-loss",
    ),
    Mutation(
        "owner-back-never", "an owner that came back under a new generation is waited for", "core/starting.py",
        "    peer = sit.view.peers.get(owner.host_id)\n    if peer is None or peer.record is None or not peer.alive or",
        "    peer = None\n    if peer is None or peer.record is None or not peer.alive or",
        by="reset-into-maintenance",
    ),
    Mutation(
        "no-yielding", "ours keeps its score beside an upstream host that holds the lease and lost the VM",
        "core/fitness.py",
        '    return "lease-held" if _yields(sit) else ""\n', '    return ""\n',
        by="mixed-their-reset-with-a-worse-score",
    ),
    Mutation(
        "no-baseline", "a start before every known host is established", "core/starting.py",
        "    if not sit.view.baseline:\n", "    if False:\n",
        by="first-agent-waits-for-the-others",
    ),
    Mutation(
        "engine-elsewhere", "a start although a live host says that it has the VM", "core/starting.py",
        '        yield reason("engine-up-elsewhere", host=peer.host_id, hostname=_name(peer))\n', "        pass\n",
        by="mixed-cold-start-ours-late",
    ),
    Mutation(
        "stopped-peer", "a host whose agent was stopped is not left alone", "core/starting.py",
        "    if stopped is not None:\n", "    if False:\n",
        by="agent-stopped",
    ),
    Mutation(
        "flag-ignored", "actions in global maintenance", "core/situation.py",
        "        return self.snapshot.global_maintenance.value is not False\n", "        return False\n",
        by="hung-and-unread",
    ),
    Mutation(
        "flag-unknown", "an unknown global maintenance is none", "core/situation.py",
        "        return self.snapshot.global_maintenance.value is not False\n",
        "        return self.snapshot.global_maintenance.value is True\n",
        by="hung-and-unread",
    ),
    Mutation(
        "local-maintenance", "local maintenance is no state of its own", "core/guards.py",
        "    if not sit.in_local_maintenance or sit.vm_here or d.state in _STOPPING:\n", "    if True:\n",
        by="local-maintenance",
    ),
    Mutation(
        "unfenced", "a start without a watchdog", "core/fitness.py",
        "    return sit.snapshot.leases.watchdog_armed is not True and not", "    return False and not",
        by="mixed-unfenced-alone",
    ),
    Mutation(
        "left-unseen", "an owner that left is waited for until it is back", "core/liveness.py",
        "    return owner is not None and owner.host_id != 0 and leases.owner_left == owner.generation\n",
        "    return False\n",
        by="lockspace-removed-for-good",
    ),
    Mutation(
        "renewal", "a start with a renewal that is a minute old", "core/starting.py",
        "    elif leases.renewed_ago >= WORRYING * leases.io_timeout:\n", "    elif False:\n",
        by="storage-hang-for-a-minute",
    ),
    Mutation(
        "score-zero", "a start at score 0 at once", "core/starting.py",
        "    return sit.now >= since + sit.timers.last_resort\n", "    return True\n",
        by="last-resort",
    ),
    Mutation(
        "no-last-resort", "never a start at score 0", "core/starting.py",
        "    return sit.now >= since + sit.timers.last_resort\n", "    return False\n",
        by="last-resort",
    ),
    Mutation(
        "own-record", "a host at score 0 leaves it to others whom sanlock refuses the lease", "core/starting.py",
        "    return not sit.view.eligible or (lease_free and _is_lease_ours(sit))\n",
        "    return not sit.view.eligible\n",
        by="own-record-at-score-zero",
    ),
    Mutation(
        "no-rank", "all hosts start at once", "core/starting.py",
        "    before = liveness.rank(sit.own_id, score, sit.view, last_resort)\n",
        "    before = 0\n",
        by="sixteen-hosts",
    ),
    Mutation(
        "no-back-off", "failed starts are repeated at once", "core/starting.py",
        "    if budgets.next_start_at > sit.now:\n", "    if False:\n",
        by="starts-that-fail",
    ),
    Mutation(
        "bad-crc", "a slot with a wrong checksum is believed", "core/slot.py",
        "    if crc32(line.string[end:], crc32(_BLANK_CRC, crc32(line.string[:begin]))) != int(crc, 16):\n",
        "    if False:\n",
        by="rotten-lines-of-a-mute-host",
    ),
    Mutation(
        "alive-for-ever", "a silent host stays alive", "core/liveness.py",
        "    return now - seen.changed_at < timers.liveness_limit\n", "    return True\n",
        by="mixed-host-loss-of-theirs-ours-alone",
    ),
    Mutation(
        "alive-at-sight", "a host counts as established at first sight", "core/liveness.py",
        "    if silence(seen, read_at) >= timers.liveness_limit:\n        return SILENT\n",
        "    if True:\n        return SILENT\n",
        by="first-agent-waits-for-the-others",
    ),
    Mutation(
        "liveness-600", "the liveness limit is ten minutes", "core/timers.py",
        "    liveness_limit: float = _row(60.0, 30.0, 120.0)\n",
        "    liveness_limit: float = _row(600.0, 30.0, 1200.0)\n",
        by="mixed-host-loss-of-theirs-ours-alone",
    ),
    Mutation(
        "guard-unconfirmed", "a lease that is not renewed is no reason to kill", "core/fencing.py",
        "    if f.blind:\n        return None\n    since", "    if True:\n        return None\n    since",
        by="sanlock-stands-still",
    ),
    Mutation(
        "guard-gone", "a sanlock that is gone is no reason to kill", "core/fencing.py",
        "    if f.refused_since is None:\n        return None\n    return _Threat",
        "    if True:\n        return None\n    return _Threat",
        by="sanlock-gone-copy-gone",
    ),
    Mutation(
        "guard-never-ran", "a copy that holds the lease and never runs is left alone", "core/fencing.py",
        "    if f.stands_since is None or f.copy.incoming", "    if True or f.copy.incoming",
        by="libvirtd-gone-within-the-start",
    ),
    Mutation(
        "guard-slept", "a machine that slept keeps its copy", "core/fencing.py",
        "    if f.longest_sleep <= SLEPT * f.io_timeout:\n", "    if True:\n",
        by="host-sleep",
    ),
    Mutation(
        "crashes-for-ever", "a VM that crashes again and again is restarted here", "core/leaving.py",
        "    if len(crashes) <= t.crash_restarts and step == 0:\n", "    if True:\n",
        by="vm-crashes",
    ),
    Mutation(
        "hung-at-boot", "a young engine counts as hung", "core/running.py",
        "    due_in = max(limit - facts.bad_for, t.hung_min_uptime - facts.uptime)\n",
        "    due_in = limit - facts.bad_for\n",
        by="panic-after-boot",
    ),
    Mutation(
        "never-hung", "a hung engine is not restarted", "core/running.py",
        "    if due_in > 0:\n", "    if True:\n",
        by="hung-guest",
    ),
    Mutation(
        "no-move-budget", "moves without limit", "core/moving.py",
        "    if len(moves) >= sit.timers.moves_per_hour and d.carried.migration_tries == 0:\n", "    if False:\n",
        by="network-lost-wherever-it-goes",
    ),
    Mutation(
        "stale-up-stops", "a remote `up` stops the VM here", "core/running.py",
        "    why = moving.purpose(sit, d, settled=state is not State.ENGINE_STARTING)\n",
        "    if liveness.engine_elsewhere(sit.view):\n        return 'hand-over', sit.timers.acpi_stop\n"
        "    why = moving.purpose(sit, d, settled=state is not State.ENGINE_STARTING)\n",
        by="mixed-old-up-slot",
    ),
    Mutation(
        "unknown-vm", "a VM whose state is unknown is down", "core/guards.py",
        "    if sit.facts is None:\n        return State.UNKNOWN_LOCAL_VM\n",
        "    if False:\n        return State.UNKNOWN_LOCAL_VM\n",
        by="libvirtd-away",
    ),
)  # fmt: skip


# --- running ----------------------------------------------------------------------------------------------------------


def find(mutation: Mutation, seeds: int) -> Optional[str]:
    """The scenario or seed that fails, with its first complaint; None: nothing does."""
    with tempfile.TemporaryDirectory(prefix="mutation.") as made:
        copy = Path(made)
        shutil.copytree(ROOT / "ovirt_he_ha", copy / "ovirt_he_ha", ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copytree(ROOT / SCENARIOS, copy / SCENARIOS)
        _apply(mutation, copy)
        found = subprocess.run(
            [sys.executable, "-c", PROGRAM, str(seeds), *_names(mutation)],
            cwd=copy, env={**os.environ, "PYTHONPATH": made, "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
    if found.returncode == 0:
        return None
    return found.stdout.strip() or found.stderr.strip().splitlines()[-1]


def _apply(mutation: Mutation, copy: Path) -> None:
    """Raises SystemExit when the code has changed so that the edit does not fit any more."""
    path = copy / "ovirt_he_ha" / mutation.file
    text = path.read_text(encoding="utf-8")
    if text.count(mutation.before) != 1:
        raise SystemExit(f"{mutation.name}: {mutation.file}: expected once, found {text.count(mutation.before)} times: "
                         f"{mutation.before!r}")  # fmt: skip
    path.write_text(text.replace(mutation.before, mutation.after), encoding="utf-8")


def _names(mutation: Mutation) -> List[str]:
    names = sorted(path.parent.name for path in (ROOT / SCENARIOS).glob("*/scenario.json"))
    return list(dict.fromkeys(([mutation.by] if mutation.by else []) + names))


def main(argv: Optional[List[str]] = None) -> int:
    parser = argparse.ArgumentParser(description="break the policy on purpose, and see that it is found")
    parser.add_argument("names", metavar="NAME", nargs="*", choices=[[], *(each.name for each in MUTATIONS)])
    parser.add_argument("--seeds", type=int, default=SEEDS, help=f"of the swarm, after the scenarios (default {SEEDS})")
    parser.add_argument("--list", action="store_true")
    arguments = parser.parse_args(argv)
    chosen = [each for each in MUTATIONS if not arguments.names or each.name in arguments.names]
    if arguments.list:
        for each in chosen:
            print(f"{each.name:<24} {each.what}")
        return 0
    missed = 0
    for each in chosen:
        found = find(each, arguments.seeds)
        missed += found is None
        print(f"{each.name}: {'NOT FOUND' if found is None else found}", flush=True)
    print(f"{len(chosen) - missed} found, {missed} not found")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
