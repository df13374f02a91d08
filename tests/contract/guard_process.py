"""A guard over real processes and a real sanlock, as a process of its own: libsanlock knows one daemon per process.

``guard_process.py VMID LEASE_PATH [LOCKSPACE KEY]`` watches until its standard input ends; each change of its report is
one line ``STATE REASON`` on standard output.
"""

import sys

from ovirt_he_ha.agent.fence import STUCK, Fencer
from ovirt_he_ha.agent.guard import Guard, GuardSeams, host_sleep
from ovirt_he_ha.config.clock import SystemClock
from ovirt_he_ha.core.model import LeaseId
from ovirt_he_ha.core.timers import Timers
from ovirt_he_ha.hypervisor.engine_scan import EngineScan
from ovirt_he_ha.hypervisor.process import ProcessTable, kill
from ovirt_he_ha.lease import daemon_status
from ovirt_he_ha.lease.host_reset import HostReset
from ovirt_he_ha.storage.lease_reader import LeaseReader
from tests.contract.sanlock_cluster import KEY, SD


def main(vmid, path, space=SD, key=KEY):
    clock, table, lease = SystemClock(), ProcessTable(), LeaseId(space, key, path, 0)

    def end(fence, seconds):
        return all(bool(kill(process, seconds)) for process in table.find(vmid, [fence.pid]))

    def say():
        report = guard.report
        print(report.state or "-", report.reason.code if report.reason else "", flush=True)

    fencer = Fencer(end, clock, lambda: None)
    seams = GuardSeams(
        find=EngineScan(vmid, table).find,
        age=table.age,
        sanlock=daemon_status.ask,
        owner=LeaseReader(lease, clock).owner,
        asleep=host_sleep,
        order=fencer.order,
        on_change=say,
        stuck=lambda: fencer.state == STUCK,
        reset=HostReset().want,
    )
    guard = Guard(lease, seams, clock, Timers())
    guard.start()
    sys.stdin.read()


if __name__ == "__main__":
    main(*sys.argv[1:])
