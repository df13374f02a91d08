"""A record that sanlock could not clear, cleared by the product, against real daemons."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Iterator

import pytest

from tests.contract import lease_real, storage_view
from tests.contract.lease_cases import _away, joined, taken, wait
from tests.contract.lease_real import KEY, SPACE
from tests.contract.sanlock_cluster import missing

pytestmark = pytest.mark.contract

# libsanlock reads where its daemon is once per process.
PROGRAM = """
import sys
from ovirt_he_ha.core.model import LeaseId
from ovirt_he_ha.lease.give_back import give_back
space, key, path, host = sys.argv[1:5]
print(give_back(LeaseId(space, key, path, 0), int(host), list))
"""


@pytest.fixture
def cluster() -> Iterator[lease_real.Cluster]:
    if missing() or storage_view.missing_component():
        pytest.skip(missing() or storage_view.missing_component())
    with tempfile.TemporaryDirectory(prefix="he-lease-") as place:
        (Path(place) / "cluster").mkdir()
        made = lease_real.Cluster(Path(place) / "cluster", storage_view.build(Path(place)))
        try:
            yield made
        finally:
            made.close()


def give_back(host: lease_real.Host) -> bool:
    command = [sys.executable, "-c", PROGRAM, SPACE, KEY, str(host.lease), str(host.number)]
    environment = {**os.environ, "SANLOCK_RUN_DIR": str(host.run_dir)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=30)
    return done.stdout.strip() == "True"


def test_a_record_that_was_left_is_cleared_and_another_host_gets_the_lease(cluster: lease_real.Cluster) -> None:
    one, two, _ = _away(cluster, "error", 5)
    one.crash()
    cluster.go(20)
    assert not give_back(one), "the storage fails still"
    one.storage("ok")
    cluster.go(30)
    assert cluster.owner().host_id == 1
    assert wait(cluster, two.take("early")) != [0]
    assert give_back(one)
    assert cluster.owner().host_id == 0
    assert wait(cluster, two.take("late")) == [0]


def test_s1_a_lease_that_is_held_stays_with_its_holder(cluster: lease_real.Cluster) -> None:
    one, two = joined(cluster)
    taken(cluster, one)
    before = cluster.owner()
    assert not give_back(one), "a process of this host holds it"
    assert not give_back(two), "the record is another host's"
    assert cluster.owner() == before and one.alive()
