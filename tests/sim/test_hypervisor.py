"""The model of qemu and libvirt against the measured hazards of lease and hypervisor together."""

import pytest

from ovirt_he_ha.core.model import Outcome
from ovirt_he_ha.sim import move
from ovirt_he_ha.sim.clock import ns
from ovirt_he_ha.sim.volume import FOREVER
from tests.sim.lease_bench import Bench


def test_qemu_is_there_before_it_has_the_lease() -> None:
    bench = Bench().settle()
    bench.create(1)
    bench.until(lambda: bench.machines[1].libvirt.domain is not None)
    assert bench.machines[1].libvirt.domain.cpus == "starting"  # type: ignore[union-attr]
    assert bench.disk.owner.host_id == 0


def test_a_create_with_a_stale_owner_blocks_and_freezes_the_rest_of_libvirt() -> None:
    """Measured: 80 sanlock s in create; list and state calls of other connections block, too."""
    bench = Bench().settle()
    bench.running(1)
    bench.machines[1].kill_daemon()
    bench.go(60.0)
    answers = bench.create(2)
    bench.go(5.0)
    libvirt = bench.machines[2].libvirt
    assert not answers and libvirt.problem == "overdue"
    stopped = []
    libvirt.shutdown(5.0, lambda outcome, detail: stopped.append(outcome))
    bench.go(6.0)
    assert stopped == [Outcome.OVERDUE]
    bench.until(lambda: answers)
    assert 70 <= answers[0][0] <= 105 and answers[0][1] is Outcome.OK
    assert libvirt.problem == ""


def test_killing_the_waiting_qemu_does_not_end_the_wait() -> None:
    bench = Bench().settle()
    bench.running(1)
    bench.machines[1].kill_daemon()
    bench.go(60.0)
    answers = bench.create(2)
    bench.go(5.0)
    libvirt = bench.machines[2].libvirt
    assert libvirt.domain is not None
    libvirt.kill(libvirt.domain, "signal")
    bench.go(20.0)
    assert libvirt.frozen and not answers
    bench.until(lambda: answers)
    assert answers[0][1] is Outcome.FAILED and not libvirt.frozen


def test_a_create_that_its_caller_gives_up_does_not_start_the_vm_later() -> None:
    bench = Bench().settle()
    bench.running(1)
    bench.machines[1].kill_daemon()
    bench.go(60.0)
    answers = bench.create(2, deadline=20.0)
    bench.go(25.0)
    assert answers[0][1] is Outcome.OVERDUE
    again = bench.create(2)
    assert again[0][1] is Outcome.REFUSED
    bench.go(150.0)
    assert bench.machines[2].libvirt.domain is None


def test_a_create_that_libvirtd_reads_late_makes_the_vm_although_its_caller_gave_up() -> None:
    bench = Bench().settle()
    libvirt = bench.machines[1].libvirt
    libvirt.hung_until = bench.timeline.now + ns(60.0)
    answers = bench.create(1, deadline=20.0)
    bench.go(25.0)
    assert [each[1] for each in answers] == [Outcome.OVERDUE]
    assert bench.create(1)[0][1] is Outcome.REFUSED and libvirt.domain is None
    bench.until(lambda: libvirt.domain is not None and libvirt.domain.cpus == "running")
    assert len(answers) == 1 and libvirt.problem == ""


def test_a_create_that_libvirtd_did_not_read_ends_with_it() -> None:
    bench = Bench().settle()
    libvirt = bench.machines[1].libvirt
    libvirt.hung_until = FOREVER
    answers = bench.create(1)
    bench.go(5.0)
    libvirt.daemon_down()
    libvirt.hung_until = 0
    libvirt.daemon_up()
    bench.go(5.0)
    assert answers[0][1] is Outcome.FAILED and libvirt.domain is None and not libvirt.frozen


def test_a_daemon_killed_in_the_middle_of_the_wait_leaves_a_qemu_that_gets_the_lease_and_never_runs() -> None:
    bench = Bench().settle()
    bench.running(1)
    bench.machines[1].kill_daemon()
    bench.go(60.0)
    answers = bench.create(2)
    bench.go(5.0)
    libvirt = bench.machines[2].libvirt
    libvirt.daemon_down()
    assert answers[0][1] is Outcome.FAILED
    bench.go(150.0)
    assert libvirt.domain is not None and libvirt.domain.cpus == "starting"
    assert bench.disk.owner.host_id == 2
    libvirt.daemon_up()
    bench.go(1.0)
    assert libvirt.problem == "" and libvirt.domain is None and bench.disk.owner.host_id == 0


def test_a_start_makes_room_where_a_paused_copy_is() -> None:
    bench = Bench().settle()
    copy = bench.running(1)
    bench.machines[1].libvirt.pause("user")
    assert bench.running(1) is not copy
    assert not copy.alive


def test_a_pause_releases_the_lease_and_another_host_may_start() -> None:
    bench = Bench().settle()
    bench.running(1)
    bench.machines[1].libvirt.pause("user")
    assert bench.disk.owner.host_id == 0
    bench.running(2)


def test_a_resume_succeeds_on_stale_memory_after_another_copy_ran() -> None:
    bench = Bench().settle()
    copy = bench.running(1)
    bench.machines[1].libvirt.pause("user")
    other = bench.running(2)
    bench.machines[2].libvirt.kill(other, "destroyed")
    bench.go(2.0)
    assert bench.machines[1].libvirt.resume()
    bench.go(1.0)
    assert copy.cpus == "running"


def test_a_resume_is_refused_while_the_lease_is_another_hosts() -> None:
    bench = Bench().settle()
    copy = bench.running(1)
    bench.machines[1].libvirt.pause("user")
    bench.running(2)
    bench.machines[1].libvirt.resume()
    bench.go(1.0)
    assert copy.cpus == "paused"


def test_a_process_whose_storage_hangs_cannot_be_killed_until_it_goes_on() -> None:
    bench = Bench().settle()
    copy = bench.running(1)
    machine = bench.machines[1]
    machine.path.lease_hang_until = bench.timeline.now + ns(30.0)
    answers = []
    machine.libvirt.destroy(10.0, lambda outcome, detail: answers.append(outcome))
    bench.go(12.0)
    assert answers == [Outcome.OVERDUE] and copy.alive
    bench.go(20.0)
    assert not copy.alive


def test_an_event_tells_each_step_of_a_life() -> None:
    bench = Bench().settle()
    copy = bench.running(1)
    bench.machines[1].libvirt.power_off(copy)
    bench.go(2.0)
    assert bench.machines[1].said == ["resumed", "started booted", "shutdown guest", "process-gone", "stopped shutdown"]


def move_to(bench: Bench, way: str = "", deadline: float = 120.0) -> list:
    bench.machines[1].libvirt.flow.move = way
    answers: list = []
    bench.machines[1].libvirt.migrate(
        bench.machines[2].libvirt, deadline, lambda outcome, detail: answers.append(outcome)
    )
    return answers


def test_a_migration_hands_the_lease_over() -> None:
    bench = Bench().settle()
    copy = bench.running(1)
    answers = move_to(bench)
    bench.go(15.0)
    arrival = bench.machines[2].libvirt.domain
    assert answers == [Outcome.OK]
    assert arrival is not None and arrival.cpus == "running" and not copy.alive
    assert bench.disk.owner.host_id == 2 and arrival.guest is copy.guest


def test_a_destination_outside_the_lockspace_gives_the_vm_back() -> None:
    bench = Bench().settle()
    copy = bench.running(1)
    bench.machines[2].kill_daemon()
    answers = move_to(bench)
    bench.go(15.0)
    assert answers == [Outcome.FAILED] and copy.cpus == "running" and bench.disk.owner.host_id == 1
    assert bench.machines[2].libvirt.domain is None


@pytest.mark.parametrize(
    "way, source, arrives, answer",
    [
        (move.FAILS, "running", False, Outcome.FAILED),
        (move.STALLS, "running", False, Outcome.OVERDUE),
        (move.CUT_BEFORE, "running", False, Outcome.FAILED),
        (move.CUT_DURING, "running", False, Outcome.FAILED),
        (move.CUT_AFTER, "paused", True, Outcome.FAILED),
    ],
)
def test_what_a_cut_leaves_behind(way: str, source: str, arrives: bool, answer: Outcome) -> None:
    bench = Bench().settle()
    copy = bench.running(1)
    answers = move_to(bench, way)
    bench.go(130.0)
    assert answers == [answer]
    assert copy.cpus == source
    assert (bench.machines[2].libvirt.domain is not None) == arrives
    assert bench.disk.owner.host_id == (2 if arrives else 1)


def test_a_hung_path_is_forever_until_somebody_mends_it() -> None:
    bench = Bench().settle()
    bench.machines[1].path.lease_hang_until = FOREVER
    assert bench.machines[1].io_hangs()
