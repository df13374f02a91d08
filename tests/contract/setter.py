"""One host's command line as a process: it changes shared settings through its own sanlock daemon, as it is told."""

import json
import sys
import time
from pathlib import Path

from ovirt_he_ha.client import shared_config
from ovirt_he_ha.config.paths import HostPaths
from ovirt_he_ha.storage import io_process


def main():
    # Every writer here takes the lock, so that no look is needed a second later for one who does not.
    shared_config.only_ours = lambda paths: True
    root = sys.argv[1]
    seconds = float(sys.argv[2])
    if len(sys.argv) > 3:
        io_process.__file__ = sys.argv[3]  # another program for the I/O
    print("ready", flush=True)
    for line in sys.stdin:
        key, value, kind = json.loads(line)
        begin = time.monotonic()
        try:
            config = shared_config.SharedConfig(HostPaths(Path(root)), seconds)
            answer = "done"
            if kind == "restore":
                answer = " ".join(config.restore())
            else:
                config.set(key, value, kind)
        except Exception as error:
            answer = getattr(error, "code", repr(error))
        print(json.dumps([answer, time.monotonic() - begin]), flush=True)


if __name__ == "__main__":
    main()
