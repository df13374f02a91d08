"""Maintenance on a whole cluster: the VM moves while it answers; one that cannot move goes on, and the host says why; a
host that goes down gives the VM away first."""

import json
import os
import time
from typing import Any, Callable, Dict, Iterator, Optional, Sequence, Tuple

import pytest

from ovirt_he_ha.lab import cluster, faults
from ovirt_he_ha.lab.judge import answered_every
from ovirt_he_ha.lab.layout import Lab, LabHost
from ovirt_he_ha.lab.testimony import Witness
from tests.e2e.conftest import made

SCALE = os.environ.get("HE_TEST_TIME_SCALE", "")
# "At least once per second", asked four times a second with a time-out of one, as the drill "migration" judges it.
LONGEST_GAP = 2.0
MOVED = 120.0  # wall seconds for a migration and what both hosts say of it
STEPS = 300.0  # product seconds: three tries, 30 and 60 s apart, each with its own end
QUIET = 3.0  # wall


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    yield from made(*(["--time-scale", SCALE] if SCALE else []))


@pytest.fixture(scope="module")
def witness(lab: Lab) -> Witness:
    return Witness(lab.observations)


def command(host: LabHost, *words: str, limit: float = 60.0) -> Tuple[int, str]:
    done = cluster.inside(host, ["hosted-engine", *words], limit=limit, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def maintenance(host: LabHost, mode: str, *words: str, limit: float = 60.0) -> Tuple[int, str]:
    return command(host, "--set-maintenance", f"--mode={mode}", *words, limit=limit)


def status(asked: LabHost, of: LabHost) -> Dict[str, Any]:
    _, text = command(asked, "--vm-status", "--json")
    found: Dict[str, Any] = json.loads(text)[str(of.host_id)]
    return found


def await_that(seconds: float, holds: Callable[[], bool], words: Callable[[], object]) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, words()
        time.sleep(0.5)  # the period of a poll


def hosts(lab: Lab) -> Tuple[LabHost, Sequence[LabHost]]:
    """Where the VM runs, and the others. Every host may take it."""
    here = faults.engine_host(lab)
    others = [lab.host(host_id) for host_id in lab.host_ids if host_id != here.host_id]

    def ready() -> bool:
        told = [status(here, host) for host in (here, *others)]
        able = [one for one in told if one["score"] > 0 and "mig=1" in one["extra"] and one["live-data"]]
        up = [one for one in told if one["engine-status"]["vm"] == "up" and one["engine-status"]["health"] == "good"]
        return len(able) == len(told) and [one["host-id"] for one in up] == [here.host_id]

    await_that(MOVED, ready, lambda: command(here, "--why")[1])
    return here, others


def only_on(witness: Witness, source: LabHost) -> Callable[[Any], bool]:
    """The VM runs on one host, which is not ``source``, with its lease, and answers."""

    def holds(world: Any) -> bool:
        running = world.hosts_running()
        return len(running) == 1 and running != [source.host_id] and world.owner == running[0] and bool(world.healthy)

    return holds


def longest_gap(witness: Witness, since: float) -> float:
    witness.wait(lambda _world: False, QUIET)  # a gap is taken down when it ends
    return answered_every(witness.records, since, time.monotonic())


def test_local_maintenance_moves_the_vm_while_it_answers(
    lab: Lab, witness: Witness, record_property: Callable[[str, object], None]
) -> None:
    source, others = hosts(lab)
    begun = time.monotonic()
    try:
        code, text = maintenance(source, "local", "--reason=new disks", "--wait", limit=MOVED + 60)
        record_property("seconds", round(time.monotonic() - begun, 1))
        assert code == 0, text
        assert "preparing" in text
        assert "Global maintenance is not changed: it is off" in text
        assert witness.wait(only_on(witness, source), MOVED)
        gap = longest_gap(witness, begun)
        record_property("longest_gap", gap)
        assert gap < LONGEST_GAP
        told = status(others[0], source)
        assert told["maintenance"] is True
        found = told["maintenance-state"]
        assert (found["state"], found["reason"]) == ("in-maintenance", "new disks")
    finally:
        code, text = maintenance(source, "none", "--reason=disks are in", "--wait")
    assert code == 0, text
    await_that(MOVED, lambda: status(others[0], source)["maintenance"] is False, lambda: status(others[0], source))


def test_a_host_that_goes_down_gives_the_vm_away_first(
    lab: Lab, witness: Witness, record_property: Callable[[str, object], None]
) -> None:
    """What ovirt-ha-host-shutdown.service runs at a shutdown; then the power goes."""
    source, others = hosts(lab)
    begun = time.monotonic()
    code, text = command(source, "--host-shutdown", limit=MOVED + 60)
    record_property("seconds", round(time.monotonic() - begun, 1))
    assert code == 0, text
    assert witness.wait(only_on(witness, source), 10.0)
    faults.power_off([source])
    try:
        gap = longest_gap(witness, begun)
        record_property("longest_gap", gap)
        assert gap < LONGEST_GAP, text
        running = witness.world.hosts_running()
    finally:
        faults.power_on([source])
    await_that(MOVED, lambda: status(others[0], source)["score"] > 0, lambda: status(others[0], source))
    assert witness.world.hosts_running() == running


def test_a_migration_that_cannot_work_ends_in_error_in_preparing_with_the_vm_running(
    lab: Lab, witness: Witness, record_property: Callable[[str, object], None]
) -> None:
    """The hosts say that they take the VM, and nobody reaches them: the network that carries migrations is cut at each
    destination. Last, because libvirt goes on trying for up to two minutes, and moves nothing meanwhile."""
    source, others = hosts(lab)
    copies = set(witness.world.running)
    begun = time.monotonic()
    try:
        for host in others:
            faults.second_network_down(host)
        limit = lab_seconds(lab, STEPS) + MOVED
        code, text = maintenance(source, "local", "--reason=cannot work", f"--wait={int(STEPS * 3)}", limit=limit * 3)
        record_property("seconds", round(time.monotonic() - begun, 1))
        assert code == 1, text
        assert "Error in preparing" in text
        assert "Migration given up after 3 tries" in text
        assert set(witness.world.running) == copies, "the VM was touched"
        assert longest_gap(witness, begun) < LONGEST_GAP
        # Every host reads it, with its cause.
        told: Optional[Dict[str, Any]] = None

        def seen() -> bool:
            nonlocal told
            told = status(others[0], source)
            return bool(told["maintenance-state"]["state"] == "error-in-preparing")

        await_that(30.0, seen, lambda: told)
        assert told is not None
        assert told["maintenance-state"]["why"].startswith("Migration given up after 3 tries")
        assert told["maintenance"] is False
        assert told["engine-status"]["vm"] == "up"
        assert "error in preparing" in command(others[0], "--vm-status", "--table")[1]
        assert "error in preparing" in command(others[1], "--why")[1]
    finally:
        for host in others:
            faults.network_up(host)
        maintenance(source, "none")
    await_that(MOVED, lambda: not status(source, source)["maintenance-state"]["state"], lambda: status(source, source))
    assert set(witness.world.running) == copies


def lab_seconds(lab: Lab, product: float) -> float:
    return product / lab.scale
