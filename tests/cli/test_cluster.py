"""--cluster-stop and --cluster-start against a broker whose cluster does what it is told, or does not."""

import json
import shlex
from dataclasses import replace
from typing import Any, Callable, ClassVar, Iterator, List, Tuple

import pytest

from ovirt_he_ha.broker.protocol import FaultCode, StorageFacts
from ovirt_he_ha.broker.rpc import Fault
from ovirt_he_ha.cli import vm
from ovirt_he_ha.config.files import load_ha_conf
from ovirt_he_ha.core import slot
from ovirt_he_ha.core.model import (
    ActionKind,
    ActionReport,
    EngineStatus,
    Health,
    HostLease,
    LeaseOwner,
    LockspaceState,
    Outcome,
    Reading,
    Vm,
)
from tests.cli.test_vm import Engine, Libvirt, define
from tests.cli.world import DOWN, UP, Ran, World, record, run

ON, OFF = slot.encode_global(True), slot.encode_global(False)
STOP = ("looking", "maintenance", "acknowledging", "shutting-down", "releasing")
START = ("storage", "lockspaces", "hosts", "maintenance", "starting")
LIVE = {1: HostLease.LIVE, 2: HostLease.LIVE, 3: HostLease.LIVE}


class Cluster:
    """Three hosts, the VM on host 1. ``guest`` decides whether a guest that is asked shuts down, ``starts`` which host
    starts the VM once global maintenance has ended (0: none), ``deaf`` which host does not look at the flag."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.guest = True
        self.starts = 2
        self.deaf = 0
        self.asked: List[ActionKind] = []
        self.shows("EngineDown")
        self.runs_on(1)
        world.on_write = self._flag
        world.start_broker()

    def shows(self, state: str) -> None:
        self.world.publish(*(record(h, extra=(("state", state),)) for h in (1, 2, 3) if h != self.deaf))

    def runs_on(self, host_id: int) -> None:
        self.world.engine(UP, pid=77) if host_id == 1 else self.world.engine(DOWN)
        self.world.leases(owner=Reading.of(LeaseOwner(host_id, 4, 100)))
        if host_id:
            self.world.publish(record(host_id, engine=UP, extra=(("state", "EngineUp"),)))

    def ends(self) -> None:
        self.world.engine(DOWN)
        self.world.leases(owner=Reading.of(LeaseOwner(0)))

    def _flag(self, host_id: int) -> None:
        on = self.world.slots[0] == ON
        self.shows("GlobalMaintenance" if on else "EngineDown")
        if not on and self.starts:
            self.runs_on(self.starts)

    def act(self, kind: ActionKind) -> None:
        self.asked.append(kind)
        if self.guest or kind is ActionKind.POWER_OFF:
            self.ends()


@pytest.fixture
def cluster(host: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    define(host)
    found = Cluster(host)

    class Own(Engine):
        asked: ClassVar[List[Tuple[Any, ...]]] = []

        def _report(self, kind: ActionKind, *what: Any) -> ActionReport:
            found.act(kind)
            return super()._report(kind, *what)

    monkeypatch.setattr(vm, "LibvirtEngineVm", Own)
    monkeypatch.setattr(vm, "Connection", Libvirt)
    yield found


def states(ran: Ran) -> List[Tuple[str, str]]:
    return [(one["step"], one["state"]) for one in ran.json["steps"]]


def broken_off(ran: Ran, state: str) -> bool:
    """Steps before it are done, those after it were not begun, and nothing is claimed but that."""
    order = [one["step"] for one in ran.json["steps"]]
    at = order.index(state)
    expected = ["done"] * at + ["under-way"] + ["pending"] * (len(order) - at - 1)
    return ran.json["state"] == state and [one["state"] for one in ran.json["steps"]] == expected and ran.status != 0


# --- stop ---------------------------------------------------------------------------------------------------------


def test_the_whole_stop_in_order(cluster: Cluster) -> None:
    def act(kind: ActionKind) -> None:
        assert cluster.world.slots[0] == ON  # nobody starts it again
        Cluster.act(cluster, kind)

    cluster.act = act  # type: ignore[method-assign]
    ran = run("--cluster-stop", "--json")
    assert ran.status == 0 and ran.json["state"] == "stopped" and ran.json["command"] == "cluster-stop"
    assert states(ran) == [(name, "done") for name in STOP]
    assert {each["state"] for each in ran.json["hosts"]} == {"seen"}
    assert cluster.asked == [ActionKind.STOP]
    assert ran.out.count("\n") == 1


@pytest.mark.parametrize("words", [(), ("--reason=power works",)])
def test_why_is_kept_with_the_maintenance(cluster: Cluster, words: Tuple[str, ...]) -> None:
    assert run("--cluster-stop", *words).status == 0
    conf = load_ha_conf(cluster.world.paths.ha_conf)
    assert conf.global_since and conf.global_reason == ("power works" if words else "planned stop of the cluster")


def test_every_step_is_shown_with_its_wait(cluster: Cluster) -> None:
    ran = run("--cluster-stop", "--wait=40")
    lines = ran.out.splitlines()
    assert [line[:3] for line in lines if line[0].isdigit()] == ["1/5", "2/5", "3/5", "4/5", "5/5"]
    assert sum("(at most" in line for line in lines) == 5 and "--cluster-start" in lines[-1] and ran.err == ""


def test_a_second_stop_does_nothing_and_says_the_same(cluster: Cluster) -> None:
    first = run("--cluster-stop", "--json")
    written, asked = len(cluster.world.written), list(cluster.asked)
    second = run("--cluster-stop", "--json")
    assert (second.status, second.json["text"], states(second)) == (0, first.json["text"], states(first))
    assert (len(cluster.world.written), cluster.asked) == (written, asked)


@pytest.mark.parametrize("flag", [HostLease.LIVE, HostLease.FAIL])
def test_a_vm_that_is_elsewhere_is_not_touched(cluster: Cluster, flag: HostLease) -> None:
    cluster.runs_on(2)
    cluster.world.leases(hosts=Reading.of({**LIVE, 2: flag}))
    ran = run("--cluster-stop", "--json", "--wait=1")
    assert broken_off(ran, "looking") and "host2" in ran.json["error"]["message"]
    assert cluster.world.written == [] and cluster.asked == []


def test_what_to_type_on_the_host_that_has_the_vm(cluster: Cluster) -> None:
    """The same command with the same options, for a shell."""
    cluster.runs_on(2)
    ran = run("--cluster-stop", "--reason=power's out", "--force", "--wait=600")
    assert ran.status == 1 and "host2" in ran.err
    typed = shlex.split(ran.err[ran.err.index("hosted-engine") :].splitlines()[0])
    assert typed[1] == "--cluster-stop" and set(typed[2:]) == {"--reason=power's out", "--force", "--wait=600"}


def test_any_host_does_the_rest_when_the_guest_was_shut_down_from_within(cluster: Cluster) -> None:
    cluster.runs_on(2)
    assert run("--cluster-stop", "--json").json["error"]["code"] == "not-here"
    assert run("--set-maintenance", "--mode=global", "--wait=5").status == 0
    cluster.ends()
    cluster.shows("GlobalMaintenance")
    ran = run("--cluster-stop", "--json")
    assert ran.status == 0 and ran.json["state"] == "stopped" and cluster.asked == []


def test_a_dead_owner_does_not_keep_it_from_stopping(cluster: Cluster) -> None:
    cluster.runs_on(2)
    cluster.world.alive = [1, 3]
    cluster.world.leases(hosts=Reading.of({**LIVE, 2: HostLease.DEAD}))
    ran = run("--cluster-stop", "--json")
    assert ran.status == 0 and "2 (host2)" in ran.json["text"]
    assert {each["host-id"]: each["state"] for each in ran.json["hosts"]} == {1: "seen", 2: "silent", 3: "seen"}


@pytest.mark.parametrize("what", ["engine", "owner", "flag", "stale"])
def test_what_is_not_known_stops_nothing(cluster: Cluster, what: str) -> None:
    if what == "engine":
        monitors = replace(cluster.world.facts.monitors, engine=Reading.missing("overdue"))
        cluster.world.facts = replace(cluster.world.facts, monitors=monitors)
    else:
        cluster.runs_on(2)
        if what == "flag":
            cluster.world.leases(hosts=Reading.missing("overdue"))
        else:
            gone = Reading.missing("overdue") if what == "owner" else Reading.of(LeaseOwner(0), 90.0)
            cluster.world.leases(owner=gone)
    ran = run("--cluster-stop", "--json", "--wait=1")
    assert broken_off(ran, "looking") and "Nothing was changed" in ran.json["error"]["message"]
    assert cluster.world.written == [] and cluster.asked == []


def test_a_host_that_does_not_see_the_flag_keeps_the_vm_running(cluster: Cluster) -> None:
    cluster.deaf = 3
    ran = run("--cluster-stop", "--json", "--wait=1")
    assert broken_off(ran, "acknowledging") and "host3" in ran.json["error"]["message"]
    assert 0.5 < ran.json["steps"][2]["seconds"] <= 1.5 and ran.json["steps"][3]["seconds"] == 0.0
    assert cluster.asked == [] and cluster.world.slots[0] == ON
    cluster.deaf = 0
    cluster.shows("GlobalMaintenance")
    assert run("--cluster-stop").status == 0 and cluster.asked == [ActionKind.STOP]


def test_an_agent_that_does_not_report_knows_nobody(cluster: Cluster) -> None:
    cluster.world.alive = []
    ran = run("--cluster-stop", "--json", "--wait=1")
    assert broken_off(ran, "acknowledging") and "ovirt-ha-agent" in ran.json["error"]["message"]
    assert cluster.asked == []


def test_agents_that_were_all_stopped_start_nothing(cluster: Cluster) -> None:
    cluster.ends()
    cluster.world.slots[0] = ON
    cluster.world.alive = []
    cluster.world.publish(*(record(h, stopped=True) for h in (1, 2, 3)))
    assert run("--cluster-stop").status == 0


def test_a_guest_that_stays_is_not_forced(cluster: Cluster) -> None:
    cluster.guest = False
    ran = run("--cluster-stop", "--json", "--wait=2")
    assert broken_off(ran, "shutting-down") and cluster.asked == [ActionKind.STOP]
    assert "asked to shut down" in ran.json["text"] and cluster.world.slots[0] == ON
    cluster.guest = True
    assert run("--cluster-stop", "--json").json["state"] == "stopped"


def test_force_powers_off_what_was_asked_first(cluster: Cluster) -> None:
    cluster.guest = False
    ran = run("--cluster-stop", "--json", "--wait=2", "--force")
    assert ran.status == 0 and cluster.asked == [ActionKind.STOP, ActionKind.POWER_OFF]
    assert dict(states(ran))["shutting-down"] == "passed-over" and dict(states(ran))["powering-off"] == "done"


def test_force_leaves_a_guest_that_shuts_down_alone(cluster: Cluster) -> None:
    assert run("--cluster-stop", "--force").status == 0 and cluster.asked == [ActionKind.STOP]


def test_a_moving_vm_is_neither_asked_nor_killed(cluster: Cluster) -> None:
    cluster.world.engine(EngineStatus(Vm.UP, Health.GOOD, "Migration Source"), pid=77)
    ran = run("--cluster-stop", "--json", "--wait=1", "--force")
    assert broken_off(ran, "looking") and cluster.asked == [] and cluster.world.written == []


def test_a_move_that_begins_meanwhile_is_waited_for(cluster: Cluster) -> None:
    def on_write(_host_id: int) -> None:
        Cluster._flag(cluster, 0)
        cluster.world.engine(EngineStatus(Vm.UP, Health.GOOD, "Migration Source"), pid=77)

    cluster.world.on_write = on_write
    ran = run("--cluster-stop", "--json", "--wait=2", "--force")
    assert ran.status == 1 and ran.json["state"] == "powering-off" and cluster.asked == []


def test_a_lease_that_is_not_given_back_is_not_stopped(cluster: Cluster) -> None:
    cluster.world.on_wait = lambda: cluster.world.engine(DOWN)
    cluster.guest = False
    cluster.world.leases(owner=Reading.missing("overdue"))
    cluster.world.engine(UP, pid=77)
    ran = run("--cluster-stop", "--json", "--wait=2")
    assert broken_off(ran, "releasing") and "lease" in ran.json["error"]["message"]


def test_libvirt_that_cannot_ask_ends_it_there(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster.guest = False
    monkeypatch.setattr(vm.LibvirtEngineVm, "outcome", Outcome.FAILED)
    ran = run("--cluster-stop", "--json", "--wait=2")
    assert broken_off(ran, "shutting-down") and ran.json["error"]["code"] == "shutdown"


# --- interruptions ------------------------------------------------------------------------------------------------


def interrupt(world: World, at: Callable[[], bool], monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C in the first wait in which ``at`` holds."""
    from ovirt_he_ha.client.link import BrokerLink

    waited = BrokerLink.wait_for_change

    def wait_for_change(link: BrokerLink, serial: int, timeout: float) -> int:
        if at():
            raise KeyboardInterrupt
        return waited(link, serial, timeout)

    monkeypatch.setattr(BrokerLink, "wait_for_change", wait_for_change)


@pytest.mark.parametrize("words", [(), ("--json",)])
def test_ctrl_c_leaves_a_state_with_a_name(
    cluster: Cluster, words: Tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster.guest = False
    with monkeypatch.context() as patch:
        interrupt(cluster.world, lambda: bool(cluster.asked), patch)
        ran = run("--cluster-stop", *words)
    assert ran.status == 130
    if words:
        assert broken_off(ran, "shutting-down") and ran.json["error"]["code"] == "interrupted"
    else:
        assert "shutting-down" in ran.err and "--cluster-stop" in ran.err
    cluster.guest = True
    assert run("--cluster-stop").status == 0


def test_a_broker_that_fails_meanwhile_is_asked_again(cluster: Cluster) -> None:
    cluster.world.refuse["put_stats"] = Fault(FaultCode.STORAGE, "slot 0: no path")

    class Calls(List[str]):
        def append(self, method: str) -> None:
            super().append(method)
            if self.count("put_stats") == 2:
                cluster.world.refuse.clear()

    cluster.world.calls = Calls()
    assert run("--cluster-stop", "--wait=20").status == 0


def test_storage_that_is_lost_meanwhile_is_named_and_waited_for(cluster: Cluster) -> None:
    def on_write(_host_id: int) -> None:
        Cluster._flag(cluster, 0)
        cluster.world.facts = replace(cluster.world.facts, storage=StorageFacts("overdue", 1.0, "no path"))

    cluster.world.on_write = on_write
    ran = run("--cluster-stop", "--json", "--wait=1")
    assert ran.status == 1 and ran.json["state"] == "maintenance" and "no path" in ran.json["error"]["message"]
    assert cluster.asked == []
    cluster.world.facts = replace(cluster.world.facts, storage=StorageFacts("ok", 1.0))
    assert run("--cluster-stop").status == 0


@pytest.mark.system_python
def test_without_a_broker_nothing_is_begun(host: World) -> None:
    define(host)
    ran = run("--cluster-stop", "--json")
    assert ran.status == 1 and ran.json["error"]["code"] == "broker-no-socket"


@pytest.mark.parametrize("verb", ["--cluster-stop", "--cluster-start"])
@pytest.mark.parametrize("wait", ["", "0", "-1", "x", "1.5", "86401", "²"])
def test_a_wrong_wait_is_one_line(host: World, verb: str, wait: str) -> None:
    host.start_broker()
    ran = run(verb, f"--wait={wait}")
    assert ran.status == 1 and ran.err.count("\n") == 1 and ran.out == "" and host.written == []


# --- start --------------------------------------------------------------------------------------------------------


@pytest.fixture
def stopped(cluster: Cluster) -> Cluster:
    """As after --cluster-stop, with all hosts on again."""
    cluster.ends()
    cluster.world.slots[0] = ON
    cluster.shows("GlobalMaintenance")
    return cluster


def test_the_whole_start_in_order(stopped: Cluster) -> None:
    ran = run("--cluster-start", "--json")
    assert ran.status == 0 and ran.json["state"] == "started"
    assert states(ran) == [(name, "done") for name in START]
    assert stopped.world.slots[0] == OFF and stopped.asked == []


def test_a_second_start_does_nothing(stopped: Cluster) -> None:
    run("--cluster-start")
    written = len(stopped.world.written)
    assert run("--cluster-start", "--json").json["state"] == "started" and len(stopped.world.written) == written


def test_missing_hosts_are_waited_for_and_named(stopped: Cluster) -> None:
    stopped.world.alive = [1, 2]
    ran = run("--cluster-start", "--json", "--wait=2")
    assert ran.status == 3 and ran.json["missing"] == ["3 (host3)"] and ran.json["state"] == "started"
    assert dict(states(ran))["hosts"] == "passed-over"
    # A running engine has no reason to wait for them.
    again = run("--cluster-start", "--json")
    assert again.status == 3 and dict(states(again))["hosts"] == "done"


def test_a_host_that_comes_in_time_is_not_missing(stopped: Cluster) -> None:
    stopped.world.alive = [1, 2]
    stopped.world.on_wait = lambda: stopped.world.alive.append(3)
    ran = run("--cluster-start", "--json")
    assert ran.status == 0 and dict(states(ran))["hosts"] == "done"


def test_storage_that_is_not_there_ends_nothing(stopped: Cluster) -> None:
    stopped.world.facts = replace(stopped.world.facts, storage=StorageFacts("overdue", 1.0, "no path"))
    ran = run("--cluster-start", "--json", "--wait=1")
    assert broken_off(ran, "storage") and "no path" in ran.json["error"]["message"]
    assert stopped.world.written == []


@pytest.mark.parametrize("which", ["lockspace", "whiteboard"])
def test_a_lockspace_that_is_not_joined_ends_nothing(stopped: Cluster, which: str) -> None:
    stopped.world.leases(**{which: Reading.of(LockspaceState.JOINING)})
    ran = run("--cluster-start", "--json", "--wait=1")
    assert broken_off(ran, "lockspaces") and stopped.world.written == []


def test_a_broker_that_is_not_up_yet_is_waited_for(host: World) -> None:
    ran = run("--cluster-start", "--json", "--wait=1")
    assert broken_off(ran, "storage") and "broker" in ran.json["error"]["message"]


def test_an_engine_that_does_not_come_is_explained(stopped: Cluster) -> None:
    stopped.starts = 0
    ran = run("--cluster-start", "--json", "--wait=1")
    assert broken_off(ran, "starting") and "not running" in ran.json["error"]["message"]
    assert stopped.world.slots[0] == OFF


@pytest.mark.parametrize("what", ["bad-health", "no-lease", "silent"])
def test_an_engine_is_up_only_when_healthy_alive_and_with_the_lease(stopped: Cluster, what: str) -> None:
    def on_write(_host_id: int) -> None:
        Cluster._flag(stopped, 0)
        if what == "bad-health":
            bad = EngineStatus(Vm.UP, Health.BAD, "Up", "starting")
            stopped.world.publish(record(2, engine=bad, extra=(("state", "EngineStarting"),)))
        elif what == "no-lease":
            stopped.world.leases(owner=Reading.of(LeaseOwner(3, 4, 100)))
        else:
            stopped.world.alive = [1, 3]

    stopped.world.on_write = on_write
    assert broken_off(run("--cluster-start", "--json", "--wait=1"), "starting")


def test_maintenance_that_comes_back_is_told(stopped: Cluster) -> None:
    stopped.starts = 0

    waits: List[bytes] = []

    def again() -> None:
        waits.append(stopped.world.slots[0])
        if waits.count(OFF) == 2:  # the step that ended it has seen it end
            stopped.world.slots[0] = ON

    stopped.world.on_wait = again
    ran = run("--cluster-start", "--json", "--wait=5")
    assert broken_off(ran, "starting") and ran.json["error"]["code"] == "maintenance-again"


def test_start_says_in_plain_lines_what_it_waits_for(stopped: Cluster) -> None:
    ran = run("--cluster-start")
    assert ran.status == 0 and ran.err == ""
    assert [line[:3] for line in ran.out.splitlines() if "(at most" in line] == ["1/5", "2/5", "3/5", "4/5", "5/5"]


def test_json_is_one_line_whatever_happens(stopped: Cluster) -> None:
    for words in (("--cluster-start", "--json"), ("--cluster-stop", "--json", "--wait=1")):
        ran = run(*words)
        assert isinstance(json.loads(ran.out), dict) and ran.out.count("\n") == 1
