"""What the lab writes is what the product reads."""

from pathlib import Path
from typing import Iterator

import pytest

from ovirt_he_ha.config.files import load_agent_conf, load_hosted_engine_conf
from ovirt_he_ha.config.paths import HostPaths
from ovirt_he_ha.lab import domain
from ovirt_he_ha.lab.definition import vm_conf
from ovirt_he_ha.lab.layout import Lab
from ovirt_he_ha.storage.archive import MEMBERS, build_archive, parse_archive


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lab]:
    monkeypatch.setattr(domain, "own", lambda _directory: None)  # needs root
    yield Lab(str(tmp_path), 2, 10.0, "10.9.0.0/24", "10.9.1.0/24", "/usr/bin/python3", "")


def test_each_hosts_files(lab: Lab) -> None:
    for host_id in lab.host_ids:
        host = lab.host(host_id)
        domain.write_host_files(host)
        paths = HostPaths(host.product_root)
        conf = load_hosted_engine_conf(paths.hosted_engine_conf)
        assert conf.host_id == host_id
        assert (conf.sd_uuid, conf.vmid) == (lab.identity.domain, lab.identity.vm)
        assert conf.storage == str(lab.storage)
        assert conf.gateway == lab.gateway
        agent_conf = load_agent_conf(paths.agent_conf)
        assert agent_conf.migration_address == host.second_address
        assert not agent_conf.allow_unfenced
        assert paths.state_dir.is_dir()
        assert paths.log_dir.is_dir()


def test_the_archive_has_room_for_it(lab: Lab) -> None:
    members = parse_archive(build_archive(domain.archive_members(lab)))
    assert set(members) == set(MEMBERS)
    assert members["vm.conf"] == vm_conf(lab).encode()
