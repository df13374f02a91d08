"""`python -m ovirt_he_ha.lab.death_watch LOCKSPACE HOST_ID`: prints the moment at which sanlock calls that host dead,
and ends.

``SANLOCK_RUN_DIR`` names the sanlock to ask; libsanlock reads it once, so each survivor is asked by a process of its
own.
"""

import json
import sys
import time

DEAD = 5
PERIOD = 0.1


def main() -> None:
    import sanlock

    lockspace, host_id = sys.argv[1].encode(), int(sys.argv[2])
    while True:
        try:
            hosts = sanlock.get_hosts(lockspace)
        except sanlock.SanlockException:
            hosts = []
        if any(host["host_id"] == host_id and host["flags"] == DEAD for host in hosts):
            print(json.dumps(time.monotonic()), flush=True)
            return
        time.sleep(PERIOD)


if __name__ == "__main__":
    main()
