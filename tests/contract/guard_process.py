"""A guard over real processes and a real sanlock, as a process of its own: libsanlock knows one daemon per process.

``guard_process.py VMID LEASE_PATH`` watches until its standard input ends; each change of its report is one line
``STATE REASON`` on standard output.
"""

import sys

from ovirt_he_ha.agent.fence import Fencer
from ovirt_he_ha.agent.guard import Guard, GuardSeams, host_sleep
from ovirt_he_ha.config.clock import SystemClock
from ovirt_he_ha.core.model import LeaseId
from ovirt_he_ha.core.timers import Timers
from ovirt_he_ha.hypervisor.engine_scan import EngineScan
from ovirt_he_ha.hypervisor.process import ProcessTable, kill
from ovirt_he_ha.lease import daemon_status
from ovirt_he_ha.storage.lease_reader import LeaseReader
from tests.contract.sanlock_cluster import KEY, SD


def main(vmid, path):
    clock, table, lease = SystemClock(), ProcessTable(), LeaseId(SD, KEY, path, 0)

    def end(fence, seconds):
        return all(bool(kill(process, seconds)) for process in table.find(vmid, [fence.pid]))

    def say():
        report = guard.report
        print(report.state or "-", report.reason.code if report.reason else "", flush=True)

    seams = GuardSeams(
        find=EngineScan(vmid, table).find,
        age=table.age,
        sanlock=daemon_status.ask,
        owner=LeaseReader(lease, clock).owner,
        asleep=host_sleep,
        order=Fencer(end, clock, lambda: None).order,
        on_change=say,
    )
    guard = Guard(lease, seams, clock, Timers())
    guard.start()
    sys.stdin.read()


if __name__ == "__main__":
    main(*sys.argv[1:])
