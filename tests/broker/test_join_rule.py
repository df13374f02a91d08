"""S11: never join the storage domain's lockspace beside an engine process that the running sanlock does not know."""

import pytest

from ovirt_he_ha.broker.join_rule import JoinRule
from ovirt_he_ha.hypervisor.process import EngineProcess
from ovirt_he_ha.lease.daemon_status import DaemonStatus, NoStatus


class Table:
    def __init__(self, *pids, mute=()):
        self.pids = pids
        self.mute = mute

    def mute_qemus(self):
        return self.mute

    def find(self, vmid):
        if None in self.pids:
            raise OSError("no /proc")
        return [EngineProcess(pid, 1) for pid in self.pids]


def may_join(pids, clients, mute=()):
    def sanlock():
        if isinstance(clients, Exception):
            raise clients
        return DaemonStatus(True, {}, clients, ())

    return JoinRule(Table(*pids, mute=mute), "vm", sanlock)()


def test_without_an_engine_nobody_is_asked():
    assert may_join((), NoStatus("refused", "/s", "x"))


def test_an_engine_that_sanlock_knows():
    assert may_join((7,), (7, 8))


@pytest.mark.parametrize(
    ("pids", "clients"),
    [((7,), ()), ((7, 9), (7,)), ((7,), NoStatus("overdue", "/s", "x")), ((None,), (7,))],
)
def test_s11_an_engine_that_it_does_not_know_keeps_us_out(pids, clients):
    assert not may_join(pids, clients)


def test_s11_a_qemu_that_does_not_tell_which_vm_it_runs_may_be_ours():
    """It hangs in the storage with its memory locked, and sanlock was started again meanwhile."""
    assert not may_join((), (), mute=(9,))
    assert not may_join((7,), (7,), mute=(9,))
    assert may_join((), (9,), mute=(9,))


@pytest.mark.parametrize("why", ["", "another copy"])
def test_a_refused_copy_of_the_domain_is_not_joined(why):
    rule = JoinRule(Table(), "vm", lambda: DaemonStatus(True, {}, (), ()), refused=lambda: why)
    assert rule() is (not why)
