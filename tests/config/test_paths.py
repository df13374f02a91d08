from pathlib import Path

from ovirt_he_ha.config.paths import HostPaths


def test_the_real_root():
    paths = HostPaths.from_env({})
    assert paths.hosted_engine_conf == Path("/etc/ovirt-hosted-engine/hosted-engine.conf")
    assert paths.broker_socket == Path("/run/ovirt-hosted-engine-ha/broker.socket")
    assert paths.ha_conf == Path("/var/lib/ovirt-hosted-engine-ha/ha.conf")
    assert HostPaths.from_env({"OVIRT_HE_ROOT": ""}).root == Path("/")


def test_another_root():
    paths = HostPaths.from_env({"OVIRT_HE_ROOT": "/srv/lab/h1"})
    below = [value for value in vars(paths).values() if isinstance(value, Path) and value != paths.root]
    below += paths.libvirt_pid_files
    assert all(Path("/srv/lab/h1") in path.parents for path in below)
