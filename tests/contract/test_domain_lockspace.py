"""--reinitialize-lockspace --storage-domain with real sanlock daemons, 20 times as fast: a host in the lockspace stops
it, a dead one is waited for, and what was written can be joined and is what --connect-storage expects."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ovirt_he_ha.lease.leader import host_in
from ovirt_he_ha.storage.errors import DomainProblem
from ovirt_he_ha.storage.local import LocalDomain
from ovirt_he_ha.storage.volumes import DomainVolumes, create_domain
from tests.contract.sanlock_cluster import REAL_SCALE, RealCluster, missing
from tests.storage.mounted_world import SIZES, MountedWorld

pytestmark = pytest.mark.contract
# As many of sanlock's seconds as the command would watch, and a look at each renewal.
PROGRAM = f"""
import sys
from ovirt_he_ha.cli import domain_lockspace, main
real = domain_lockspace.silence
domain_lockspace.silence = lambda io_timeout: real(io_timeout) / {REAL_SCALE}
domain_lockspace.LOOK = 0.5
sys.exit(main.main(["--reinitialize-lockspace", "--storage-domain"]))
"""


class Place:
    def __init__(self, directory):
        self.world = MountedWorld(domainType="local", storage=str(directory / "storage"))
        self.conf = self.world.conf
        create_domain(self.conf.storage, self.conf.sd_uuid, DomainVolumes.of(self.conf), SIZES, owner=None)
        self.domain = LocalDomain(self.conf.storage, self.conf.sd_uuid)
        self.lease = self.domain.lease(self.conf.vm_disk_id, self.conf.vm_disk_vol_id)
        self.cluster = RealCluster(directory)
        self.one, self.two = (self.cluster.host(number) for number in (1, 2))
        for host in (self.one, self.two):
            host.start()

    def format(self):
        name = self.conf.sd_uuid.encode()
        self.one.api("write_lockspace", name, self.domain.ids_path)
        self.one.api("write_resource", name, self.lease.key.encode(), [(self.lease.path, 0)])

    def join(self, host, number):
        host.api("add_lockspace", self.conf.sd_uuid.encode(), number, self.domain.ids_path)

    def command(self):
        env = {
            "PATH": os.environ["PATH"],
            "OVIRT_HE_ROOT": str(self.world.root),
            "SANLOCK_RUN_DIR": str(self.one.run_dir),
            "PYTHONPATH": str(Path(__file__).resolve().parents[2]),
        }
        return subprocess.run([sys.executable, "-c", PROGRAM], env=env, capture_output=True, text=True, timeout=60)

    def generation(self, number):
        with open(self.domain.ids_path, "rb") as file:
            file.seek((number - 1) * 512)
            return host_in(file.read(512), self.conf.sd_uuid, 512).generation

    def close(self):
        self.cluster.close()
        self.world.close()


@pytest.fixture
def place(tmp_path):
    if missing():
        pytest.skip(missing())
    made = Place(tmp_path)
    yield made
    made.close()


def test_a_host_in_the_lockspace_stops_it(place):
    place.format()
    place.join(place.two, 2)
    before = place.generation(2)
    ran = place.command()
    assert ran.returncode == 1 and "host id 2 (host2" in ran.stderr, ran.stderr
    assert place.generation(2) == before == 1
    place.join(place.one, 1)
    assert place.command().returncode == 1


def test_a_dead_host_is_waited_for_and_all_begins_anew(place):
    place.format()
    place.join(place.two, 2)
    place.two.kill()
    ran = place.command()
    assert ran.returncode == 0, ran.stderr
    assert place.generation(2) == 0
    place.join(place.one, 1)
    assert place.generation(1) == 1


def test_what_was_damaged_is_whole_again(place):
    with pytest.raises(DomainProblem):
        place.world.provider().connect(30)
    ran = place.command()
    assert ran.returncode == 0, ran.stderr
    assert not place.world.provider().connect(30).changed
    place.join(place.one, 1)
