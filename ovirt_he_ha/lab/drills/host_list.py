"""sanlock's own opinion of a host, asked beside the product."""

import json
import subprocess
import sys
from typing import List, Optional

from ovirt_he_ha.lab.layout import LabHost
from ovirt_he_ha.lab.services import SANLOCK_RUN

WATCH = "ovirt_he_ha.lab.death_watch"


class HostList:
    """A process of its own per survivor: libsanlock reads its socket's directory once per process."""

    def __init__(self, survivor: LabHost) -> None:
        self._host = survivor
        self._process: Optional[subprocess.Popen[str]] = None

    def follow(self, host_id: int) -> None:
        """Begin to look for the moment at which sanlock calls this host dead."""
        directory = self._host.directory / SANLOCK_RUN.lstrip("/")
        words: List[str] = [self._host.lab.identity.domain, str(host_id)]
        self._process = subprocess.Popen(
            [sys.executable, "-m", WATCH, *words],
            env={"SANLOCK_RUN_DIR": str(directory), "PYTHONPATH": str(self._host.lab.source)},
            stdout=subprocess.PIPE,
            text=True,
            cwd="/",
        )

    def stop(self) -> Optional[float]:
        """The moment (monotonic wall seconds), None if it has not come."""
        if self._process is None:
            return None
        process, self._process = self._process, None
        process.terminate()
        output, _ = process.communicate()
        return float(json.loads(output)) if output.strip() else None
