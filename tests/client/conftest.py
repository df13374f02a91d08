import pytest

from tests.client.deployed import Host


@pytest.fixture
def host(tmp_path):
    """Deployed, without a running broker."""
    return Host(tmp_path)


@pytest.fixture
def served(host):
    server = host.serve()
    yield host
    server.stop(2.0)
