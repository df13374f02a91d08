"""``hosted-engine --why`` while things go wrong: what it announces, and what the observer and the ledgers then saw."""

import json
import subprocess
import threading
import time
from contextlib import contextmanager
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional

import pytest

from ovirt_he_ha.core.liveness import LATE, LOOKS
from ovirt_he_ha.core.model import LeaseFacts
from ovirt_he_ha.core.timers import Timers
from ovirt_he_ha.lab import cluster, control
from ovirt_he_ha.lab.drills.board import Board
from ovirt_he_ha.lab.layout import ENGINE_NAME, Lab, LabHost
from ovirt_he_ha.lab.testimony import Witness
from tests.e2e.conftest import made
from tests.own_time import OwnTime

HeLab = Callable[..., "subprocess.CompletedProcess[str]"]
EVERY = 0.3  # wall seconds between two questions
CYCLE = Timers.cycle  # product seconds
BETWEEN_LOOKS = LOOKS * LeaseFacts.io_timeout  # of a sanlock at the others
# Left of a wait for a dead host when each host has published its own sanlock's word: the time until DEAD, less the
# silence that is told, the looks and two cycles.
OWN_WORD = 8.0 * LeaseFacts.io_timeout + LeaseFacts.watchdog - LATE * LeaseFacts.io_timeout - BETWEEN_LOOKS - 2 * CYCLE
# Before that it is the middle of 30 s that another host's word, published 10 s later, leaves open.
HALF_KNOWN = (CYCLE + BETWEEN_LOOKS) / 2.0
# Wall seconds from the order of a start until its process is there: libvirt and qemu, which no scale makes faster.
LAUNCH = 2.0
SLOWLY = "8"  # MiB/s: the guest has some 40 to send


class Asked(NamedTuple):
    """Moments in monotonic wall seconds. ``took``: less what the machine was busy with. ``found`` is empty when there
    was no answer."""

    began: float
    ended: float
    took: float
    status: int
    found: Dict[str, Any]

    @property
    def code(self) -> str:
        return str(self.found["answer"]["code"])

    @property
    def text(self) -> str:
        return str(self.found["answer"]["text"])


def ask(host: LabHost, *words: str) -> Asked:
    began, own = time.monotonic(), OwnTime()
    done = cluster.inside(
        host, ["hosted-engine", "--why", "--json", *words], limit=20, capture_output=True, text=True, check=False
    )
    ended, took = time.monotonic(), own.seconds
    assert done.stdout, done.stderr
    return Asked(began, ended, took, done.returncode, json.loads(done.stdout))


@contextmanager
def asking(host: LabHost) -> Iterator[List[Asked]]:
    """Ask this host again and again."""
    found: List[Asked] = []
    over = threading.Event()

    def go_on() -> None:
        while not over.wait(EVERY):
            found.append(ask(host))

    thread = threading.Thread(target=go_on)
    thread.start()
    try:
        yield found
    finally:
        over.set()
        thread.join()


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """Slower than the others: what was announced is compared with what came to the second, and what a busy machine
    takes from either counts by this scale."""
    yield from made("--time-scale", "5")


@pytest.fixture
def witness(lab: Lab) -> Witness:
    return Witness(lab.observations)


def engine_host(witness: Witness) -> int:
    assert witness.wait(lambda world: world.healthy and len(world.running) == 1, 90)
    return witness.world.hosts_running()[0]


def another(lab: Lab, host_id: int) -> LabHost:
    return lab.host(next(each for each in lab.host_ids if each != host_id))


def drill(command: HeLab, name: str) -> Dict[str, Any]:
    done = command("drill", name, "--json", check=False)
    report: Dict[str, Any] = json.loads(done.stdout)
    assert report["recovered"], report
    return report


def ordered(lab: Lab, host_id: int, action: str, after: float) -> Optional[float]:
    """When this host's ledger says that it ordered that, in wall seconds of the machine's clock."""
    words = ["hosted-engine", "--history", "--json"]
    done = cluster.inside(lab.host(host_id), words, limit=20, capture_output=True, text=True, check=True)
    moments = [
        entry["monotonic"] / lab.scale
        for entry in json.loads(done.stdout)["entries"]
        if entry["kind"] == "order" and entry["values"].get("action") == action
    ]
    return next((moment for moment in moments if moment > after), None)


def said_anew(lab: Lab, host_id: int) -> None:
    """Until this host's slot tells of a later moment than now."""
    board, now = Board(lab), time.monotonic()
    while True:
        board.read()
        record = board.record(host_id)
        if record is not None and record.timestamp / lab.scale > now:
            return
        assert time.monotonic() < now + 10
        time.sleep(0.05)


def starts_with_a_time(asked: List[Asked], before: float) -> List[Asked]:
    """Answers whose first step is a start at a known time."""
    return [
        each
        for each in asked
        if each.ended < before and each.found["next"] and each.found["next"][0]["action"] == "start"
        if each.found["next"][0]["in"] is not None
    ]


def may_come(each: Asked) -> List[int]:
    """The hosts whose start is announced for the same moment, as far as it can be known. Each sanlock has seen the lost
    host's last renewal at its own next look, up to two io_timeouts after it was written, and calls it dead so much
    later: the second host's turn, 15 s after *its* sanlock says so, may come with the best host's or before. Until a
    host has told how long its own sanlock has seen nothing, its moment is made from another's, and may be wrong by up
    to these 20 s; then by a cycle. One that still believes the VM up there has not said when."""
    first = each.found["next"][0]["in"]
    soon = first + (CYCLE if first <= OWN_WORD else BETWEEN_LOOKS)
    steps = [step for step in each.found["next"] if step["action"] == "start" and step["in"] is not None]
    return [step["host"] for step in steps if step["in"] <= soon or "engine-up-elsewhere" in step["waits"]]


def said_by(asked: List[Asked], moment: float) -> str:
    """For the reader of a failure: seconds before the moment, who was to come when, and what each host published."""
    lines = []
    for each in asked:
        steps = [f"{step['host']} in {step['in']} after {step['waits']}" for step in each.found["next"]]
        hosts = [
            f"{host['host_id']}: {host['score']['points']} {host['state']} {host['age']} s old, "
            f"sanlock {host['sanlock']}, {[reason['code'] for reason in host['reasons']]}"
            for host in each.found["hosts"]
        ]
        lines.append(f"{each.began - moment:.2f}: {'; '.join(steps)}\n    " + "\n    ".join(hosts))
    return "\n".join(lines)


def distance(each: Asked, moment: float, scale: float) -> float:
    """Product seconds by which the moment came after (below 0: before) what was announced. The answer was made while
    the question ran."""
    left = each.found["next"][0]["in"] / scale
    early, late = each.began + left, each.ended + left
    return (moment - late if moment > late else min(0.0, moment - early)) * scale


def came_as_announced(announced: List[Asked], moment: float, scale: float) -> bool:
    """Within a cycle of each answer's time, once every host has told its own wait; before, of what that leaves open."""
    return all(
        abs(distance(each, moment, scale)) <= (CYCLE if each.found["next"][0]["in"] <= OWN_WORD else HALF_KNOWN)
        for each in announced
    )


def test_it_says_where_the_vm_is_and_that_nothing_is_ahead(lab: Lab, witness: Witness) -> None:
    here = engine_host(witness)
    for host_id in lab.host_ids:
        asked = ask(lab.host(host_id))
        assert (asked.status, asked.code, asked.found["answer"]["host"]) == (0, "runs", here), asked.text
        assert asked.took < 3.0
        assert [host["live"] for host in asked.found["hosts"]] == [True] * 3
        assert asked.found["lease"]["owner"] == here
    shown = cluster.inside(
        lab.host(1), ["hosted-engine", "--why"], limit=20, capture_output=True, text=True, check=True
    )
    assert shown.stdout.isascii() and shown.stdout.startswith("The engine VM runs on host ")


def test_a_power_loss_is_announced_with_its_time(lab: Lab, witness: Witness, command: HeLab) -> None:
    here = engine_host(witness)
    before = time.monotonic()
    with asking(another(lab, here)) as asked:
        drill(command, "host-loss")
    witness.read()
    copy = witness.latest()
    assert copy is not None and copy.host != here
    moment = ordered(lab, copy.host, "start", before)
    assert moment is not None
    announced = starts_with_a_time(asked, moment)
    assert len(announced) >= 3, [each.text for each in asked]
    assert all(copy.host in may_come(each) for each in announced), said_by(announced, moment)
    assert came_as_announced(announced, moment, lab.scale), said_by(announced, moment)
    appeared = witness.appeared(copy)
    assert appeared is not None and 0 <= appeared - moment < LAUNCH
    waiting = announced[0].found["next"][0]
    assert "lease-held" in waiting["waits"] and "announced bound" in announced[0].text


def test_a_killed_sanlock_is_announced(lab: Lab, witness: Witness, command: HeLab) -> None:
    here = engine_host(witness)
    before = time.monotonic()
    with asking(another(lab, here)) as asked:
        drill(command, "sanlock-kill")
    witness.read()
    copy = witness.latest()
    assert copy is not None and copy.host != here
    moment = ordered(lab, copy.host, "start", before)
    assert moment is not None
    announced = starts_with_a_time(asked, moment)
    assert announced, [each.text for each in asked]
    assert came_as_announced(announced, moment, lab.scale), said_by(announced, moment)
    # The host without sanlock publishes nothing: its id is not proven. The others say what they wait for.
    # The second host, whose sanlock may see the death first, then waits for its turn only.
    waits = [each.found["next"][0]["waits"] for each in announced]
    assert "lease-held" in waits[0] and all("lease-held" in each or "rank" in each for each in waits), waits
    # Which of the two comes first is not known before each has told its own wait; one of them waits for the lease only.
    texts = [step["text"] for step in announced[0].found["next"]]
    assert any(f"host {here} (" in text or f"of host {here} " in text for text in texts), texts


def test_a_crash_is_followed_by_what_was_said_to_follow(lab: Lab, witness: Witness, command: HeLab) -> None:
    here = engine_host(witness)
    peer = another(lab, here)
    said = ask(peer)
    on_it = next(host for host in said.found["hosts"] if host["host_id"] == here)
    assert "vm-crash" in {each["event"] for each in on_it["reactions"]}
    before = time.monotonic()
    with asking(peer) as asked:
        drill(command, "vm-crash")
    moment = ordered(lab, here, "start", before)
    assert moment is not None, "it was not restarted where it crashed"
    after = [each for each in asked if each.began > moment + 2 * CYCLE / lab.scale]
    assert after, [each.text for each in asked]
    assert all(
        each.found["answer"]["host"] == here for each in after if each.code in ("runs", "bad-health", "starting")
    )
    witness.read()
    copy = witness.latest()
    ran = witness.first_ran(copy) if copy is not None else None
    assert ran is not None
    # Where the machine took time from the host's next word, or from its way here, the answer is so much older.
    took = OwnTime()
    said_anew(lab, here)
    last = ask(peer)
    assert last.code == "runs", last.text
    wrong = (last.ended - ran) * lab.scale - last.found["answer"]["since"]
    assert abs(wrong) <= CYCLE + took.stolen * lab.scale, last.text


def test_a_maintenance_is_told_while_it_moves_the_vm(lab: Lab, witness: Witness, command: HeLab) -> None:
    here = engine_host(witness)
    # The whole VM is over in a second otherwise, between two questions on a busy machine.
    slowly = ["virsh", "migrate-setspeed", ENGINE_NAME, SLOWLY]
    cluster.inside(lab.host(here), slowly, limit=20, capture_output=True, text=True, check=True)
    with asking(another(lab, here)) as asked:
        report = drill(command, "migration")
    there = report["host"]
    moving = [each for each in asked if each.code == "migrating"]
    assert moving, [each.text for each in asked]
    of_it = [host for each in moving for host in each.found["hosts"] if host["host_id"] == here]
    assert "preparing" in {host["maintenance"]["state"] for host in of_it}
    assert f"Migrating the VM to host {there}" in {each["text"] for host in of_it for each in host["reasons"]}
    arrived = [each for each in asked if each.code == "runs" and each.found["answer"]["host"] == there]
    assert arrived, [each.text for each in asked]
    assert any("--set-maintenance --mode=none" in text for each in arrived for text in each.found["do"])


def test_without_its_broker_a_host_reads_the_volume(lab: Lab, witness: Witness) -> None:
    here = engine_host(witness)
    host = another(lab, here)
    control.call(host.control, "stop", service="broker")
    try:
        asked = ask(host)
    finally:
        control.call(host.control, "start", service="broker")
    assert (asked.status, asked.code, asked.found["answer"]["host"]) == (0, "runs", here), asked.text
    assert asked.found["sources"]["slots"]["from"] == "volume" and asked.took < 3.0
    ages = {each["host_id"]: each["age"] for each in asked.found["hosts"]}
    assert ages[here] is not None and ages[here] < 3 * CYCLE
