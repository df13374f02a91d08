"""S11: never join the storage domain's lockspace beside an engine process that the running sanlock does not know."""

import pytest

from ovirt_he_ha.broker.join_rule import JoinRule
from ovirt_he_ha.hypervisor.process import EngineProcess
from ovirt_he_ha.lease.daemon_status import DaemonStatus, NoStatus


class Table:
    def __init__(self, *pids):
        self.pids = pids

    def find(self, vmid):
        if None in self.pids:
            raise OSError("no /proc")
        return [EngineProcess(pid, 1) for pid in self.pids]


def may_join(pids, clients):
    def sanlock():
        if isinstance(clients, Exception):
            raise clients
        return DaemonStatus(True, {}, clients, ())

    return JoinRule(Table(*pids), "vm", sanlock)()


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
