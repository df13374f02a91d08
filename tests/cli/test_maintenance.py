import time
from dataclasses import replace

import pytest

from ovirt_he_ha.broker.protocol import FaultCode
from ovirt_he_ha.broker.rpc import Fault
from ovirt_he_ha.config.files import HaConf, load_ha_conf
from ovirt_he_ha.core import slot
from tests.cli.world import UP, World, record, run

ON = slot.encode_global(True)
OFF = slot.encode_global(False)


def local(world: World) -> HaConf:
    return load_ha_conf(world.paths.ha_conf)


@pytest.mark.parametrize("words", [(), ("--mode=both",), ("--mode=",), ("--mode=Local",)])
def test_an_unknown_mode_is_refused_before_anything_else(host: World, words: tuple) -> None:
    host.configure(vmid="")
    ran = run("--set-maintenance", *words)
    assert ran.status == 1 and ran.err.count("\n") == 1 and "--mode" in ran.err


@pytest.mark.parametrize("mode", ["global", "local", "none"])
def test_not_deployed(host: World, mode: str) -> None:
    host.configure(vmid="")
    assert run("--set-maintenance", f"--mode={mode}").status == 1
    assert not host.paths.ha_conf.exists()


def test_global_leaves_local_alone(world: World) -> None:
    run("--set-maintenance", "--mode=local")
    ran = run("--set-maintenance", "--mode=global")
    assert ran.status == 0 and world.slots[0] == ON
    assert (local(world).maintenance, local(world).reason) == (True, "")
    assert "--mode=none ends both" in ran.out


def test_local_leaves_global_alone(world: World) -> None:
    world.slots[0] = ON
    ran = run("--set-maintenance", "--mode=local", "--reason", "disk | swap\n é")
    assert ran.status == 0 and world.written == []
    assert local(world) == HaConf(True, True, "disk / swap ?")
    assert "none" in ran.out


def test_none_ends_both_and_says_so(world: World) -> None:
    world.slots[0] = ON
    run("--set-maintenance", "--mode=local", "--reason=x")
    ran = run("--set-maintenance", "--mode=none")
    assert ran.status == 0 and world.slots[0] == OFF and local(world) == HaConf()
    assert len(ran.out.splitlines()) == 2


def test_none_writes_no_local_file_where_there_was_none(world: World) -> None:
    assert run("--set-maintenance", "--mode=none").status == 0
    assert not world.paths.ha_conf.exists()


def test_local_is_accepted_while_the_vm_runs_here(world: World) -> None:
    world.engine(UP)
    ran = run("--set-maintenance", "--mode=local")
    assert ran.status == 0 and "moves" in ran.out


def test_local_needs_no_broker(host: World) -> None:
    ran = run("--set-maintenance", "--mode=local")
    assert ran.status == 0 and local(host).manual and ran.err


def test_global_needs_the_broker(host: World) -> None:
    ran = run("--set-maintenance", "--mode=global")
    assert ran.status == 1 and ran.err


def test_none_without_a_broker_ends_what_it_can_and_fails(host: World) -> None:
    run("--set-maintenance", "--mode=local")
    ran = run("--set-maintenance", "--mode=none")
    assert ran.status == 1 and not local(host).maintenance
    assert len(ran.out.splitlines()) == 1


def test_a_flag_that_reads_back_otherwise_is_not_acknowledged(world: World) -> None:
    def other_writer(_host_id: int) -> None:
        world.slots[0] = OFF

    world.on_write = other_writer
    ran = run("--set-maintenance", "--mode=global")
    assert ran.status == 1 and "on:" not in ran.out and "off" in ran.err


def test_a_refused_write_is_not_acknowledged(world: World) -> None:
    world.refuse["put_stats"] = Fault(FaultCode.STORAGE, "slot 0: read-only")
    ran = run("--set-maintenance", "--mode=global")
    assert ran.status == 1 and "read-only" in ran.err and ran.out == ""


def test_an_unreadable_local_file_is_left_alone(world: World) -> None:
    world.paths.ha_conf.write_text("local_maintenance=perhaps\n")
    world.slots[0] = ON
    ran = run("--set-maintenance", "--mode=local")
    assert ran.status == 1 and str(world.paths.ha_conf) in ran.err
    ran = run("--set-maintenance", "--mode=none")
    assert ran.status == 1 and world.slots[0] == OFF
    assert world.paths.ha_conf.read_text() == "local_maintenance=perhaps\n"


@pytest.mark.parametrize("mode", ["global", "local", "none"])
def test_a_reason_that_is_too_long_for_a_slot_changes_nothing(world: World, mode: str) -> None:
    ran = run("--set-maintenance", f"--mode={mode}", "--reason=" + "x" * 201)
    assert ran.status == 1 and "200" in ran.err
    assert world.written == [] and not world.paths.ha_conf.exists()


def test_every_mode_keeps_its_reason(world: World) -> None:
    before = int(time.time())
    assert "disks" in run("--set-maintenance", "--mode=local", "--reason=disks").out
    assert "switch" in run("--set-maintenance", "--mode=global", "--reason=new switch").out
    found = local(world)
    assert (found.reason, found.global_reason, found.end_reason) == ("disks", "new switch", "")
    assert before < found.global_since <= int(time.time()) + 1
    assert run("--set-maintenance", "--mode=none", "--reason=done").status == 0
    assert local(world) == HaConf(end_reason="done")
    run("--set-maintenance", "--mode=local")
    assert local(world) == HaConf(True, True)


def test_global_names_the_hosts_that_have_seen_it(world: World) -> None:
    world.publish(record(1), record(2, extra=(("state", "GlobalMaintenance"),)), record(3, stopped=True))
    ran = run("--set-maintenance", "--mode=global")
    assert ran.status == 0
    assert "have seen it: 2 (host2); not yet: 1 (host1)\n" in ran.out


def test_global_counts_although_its_reason_cannot_be_kept(world: World) -> None:
    world.paths.ha_conf.write_text("local_maintenance=perhaps\n")
    ran = run("--set-maintenance", "--mode=global", "--reason=x")
    assert ran.status == 0 and world.slots[0] == ON and str(world.paths.ha_conf) in ran.err


def test_local_says_that_global_is_not_touched(world: World) -> None:
    world.engine(UP)
    assert "Global maintenance is not changed: it is off" in run("--set-maintenance", "--mode=local").out
    world.slots[0] = ON
    ran = run("--set-maintenance", "--mode=local")
    assert "stays on" in ran.out and "moves to another host now" not in ran.out
    assert world.written == []


def test_none_says_what_it_changed_and_what_it_did_not(world: World) -> None:
    world.publish(record(1, maintenance=True), record(3, maintenance=True))
    out = run("--set-maintenance", "--mode=none").out.splitlines()
    assert len(out) == 3 and out[0].endswith("as it was") and out[1].endswith("as it was")
    assert "3 (host3)" in out[2] and "1 (host1)" not in out[2]
    world.slots[0] = ON
    assert not run("--set-maintenance", "--mode=none").out.splitlines()[1].endswith("as it was")


def test_waiting_for_a_vm_that_global_maintenance_holds_ends_at_once(world: World) -> None:
    world.slots[0] = ON
    extra = (("state", "GlobalMaintenance"), ("maintenance_state", "preparing"))
    world.publish(record(1, engine=UP, extra=extra))
    ran = run("--set-maintenance", "--mode=local", "--wait")
    assert ran.status == 1 and "global maintenance" in ran.err and local(world).manual


def test_a_host_without_the_vm_is_in_maintenance_in_global_maintenance_too(world: World) -> None:
    world.slots[0] = ON
    world.publish(record(1, extra=(("state", "GlobalMaintenance"), ("maintenance_state", "in-maintenance"))))
    assert run("--set-maintenance", "--mode=local", "--wait").status == 0


def test_a_volume_that_was_never_read_confirms_nothing(world: World) -> None:
    world.facts = replace(world.facts, slots_age=None)
    world.on_write = world.slots.pop
    assert run("--set-maintenance", "--mode=global").status == 1


# --- until it has come into effect -------------------------------------------------------------------------------


def test_local_waits_until_the_vm_has_left(world: World) -> None:
    states = iter(["preparing", ""])

    def step() -> None:
        phase = next(states)
        extra = (("state", "EngineUp"), ("maintenance_state", phase)) if phase else (("state", "LocalMaintenance"),)
        world.publish(record(1, maintenance=not phase, extra=extra))

    world.publish(record(1, engine=UP))
    world.on_wait = step
    ran = run("--set-maintenance", "--mode=local", "--wait")
    assert ran.status == 0 and "preparing" in ran.out and ran.out.splitlines()[-1].endswith("in maintenance")


def test_a_vm_that_cannot_leave_is_told_with_the_cause(world: World) -> None:
    extra = (("state", "EngineUp"), ("maintenance_state", "error-in-preparing"), ("maintenance_why", "Nobody has room"))
    world.publish(record(1, engine=UP, extra=extra))
    ran = run("--set-maintenance", "--mode=local", "--wait")
    assert ran.status == 1 and "Nobody has room" in ran.err and "--mode=none" in ran.err


def test_an_agent_that_does_not_report_is_not_in_maintenance(world: World) -> None:
    world.publish(record(1, maintenance=True))
    world.alive = [2]
    assert run("--set-maintenance", "--mode=local", "--wait=1").status == 1


def test_global_waits_until_every_live_host_says_so(world: World) -> None:
    def see(host_id: int) -> None:
        world.publish(record(host_id, extra=(("state", "GlobalMaintenance"),)))

    world.publish(record(1), record(2), record(3, maintenance=True), record(4), record(5, stopped=True))
    world.alive = [1, 2, 3, 5]
    steps = iter([lambda: see(1), lambda: see(2)])
    world.on_wait = lambda: next(steps)()
    ran = run("--set-maintenance", "--mode=global", "--wait")
    assert ran.status == 0 and "not 1 (host1), 2 (host2)" in ran.out
    assert "3 of 3" in ran.out.splitlines()[-1]
    world.on_wait = lambda: world.publish(record(1), record(2))
    assert run("--set-maintenance", "--mode=none", "--wait").status == 0


def test_a_host_that_does_not_follow_is_named(world: World) -> None:
    world.publish(record(1, extra=(("state", "GlobalMaintenance"),)), record(2))
    ran = run("--set-maintenance", "--mode=global", "--wait=1")
    assert ran.status == 1 and "2 (host2)" in ran.err


@pytest.mark.parametrize("mode", ["global", "local", "none"])
def test_a_broker_that_answers_nobody_is_not_waited_for(host: World, mode: str) -> None:
    """The write has 30 s, for slow storage."""
    host.hang_broker()
    begin = time.monotonic()
    ran = run("--set-maintenance", f"--mode={mode}", "--reason=x")
    assert time.monotonic() - begin < 3.0
    assert ran.status == (0 if mode == "local" else 1) and "ovirt-ha-broker" in ran.err
    if mode == "global":
        assert not host.paths.ha_conf.exists()
    else:
        assert local(host).maintenance is (mode == "local")


def test_a_broker_that_only_refuses_to_say_who_is_alive_is_asked(world: World) -> None:
    world.refuse["is_host_alive"] = Fault(FaultCode.INTERNAL, "not now")
    assert run("--set-maintenance", "--mode=global").status == 0 and world.slots[0] == ON
