"""hosted-engine on a storage that really hangs: readers sleep in the kernel, where no signal reaches them."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ovirt_he_ha.cli.sources import stuck_readers
from tests.cli.test_vm import define
from tests.cli.world import World, record
from tests.contract import own_mounts
from tests.contract.test_storage_view import lab, program, views  # noqa: F401 - fixtures

ROOT = Path(__file__).resolve().parents[2]
LONGEST = 3.0  # wall seconds of a verb
SLACK = 1.0  # of a machine that runs other tests
VERBS = (
    "--simulate --json", "--vm-status", "--vm-status --json", "--vm-status --table", "--why --json",
    "--protection --json", "--check-storage --json", "--create-volume --volume=metadata",
    "--get-shared-config console --json", "--restore-shared-config --json", "--vm-start",
    "--history --json",
)  # fmt: skip

pytestmark = pytest.mark.contract


def ran(host, words):
    """Its output through pipes, as everybody but a terminal takes it: they end when nobody holds them any more."""
    environment = {**os.environ, "OVIRT_HE_ROOT": str(host.root), "PYTHONPATH": str(ROOT)}
    begin = time.monotonic()
    command = [sys.executable, "-m", "ovirt_he_ha.cli.main", *words.split()]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30)
    return done, time.monotonic() - begin


def looks_at_hung_storage(lab):  # noqa: F811
    """A deployed host without a broker."""
    host = World()
    try:
        with views(lab) as (view,):
            host.configure(storage=str(lab.host(1).view))
            host.publish(record(1), record(2), record(3))
            define(host)
            volume = host.make_volume()
            done, _ = ran(host, "--vm-status --json")
            assert done.returncode == 0 and set(json.loads(done.stdout)) == {"1", "2", "3", "global_maintenance"}, done
            view.switch("hang", 0)
            for words in (*VERBS, *VERBS[:3]):
                done, seconds = ran(host, words)
                assert seconds < LONGEST + SLACK and "Traceback" not in done.stderr, (words, seconds, done)
                if "--json" in words:
                    assert isinstance(json.loads(done.stdout), dict), (words, done)
            assert 1 <= stuck_readers(str(volume)) <= 2
    finally:
        host.close()


def test_nothing_hangs_and_no_more_than_two_readers_stay_behind(lab):  # noqa: F811
    own_mounts.run(looks_at_hung_storage, lab)
