import pytest

from ovirt_he_ha.client import shared_config
from tests.client.deployed import Host
from tests.client.no_lock import NoLock


@pytest.fixture
def host(tmp_path):
    """Deployed, without a running broker."""
    return Host(tmp_path)


@pytest.fixture
def served(host):
    server = host.serve()
    yield host
    server.stop(2.0)


@pytest.fixture(autouse=True)
def no_lock(monkeypatch):
    monkeypatch.setattr(shared_config, "ArchiveLock", NoLock)
