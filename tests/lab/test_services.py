"""The lab's view of /etc and the command lines of a host."""

from dataclasses import replace
from pathlib import Path

from ovirt_he_ha.lab import watchdog
from ovirt_he_ha.lab.layout import Lab
from ovirt_he_ha.lab.services import etc_files, libvirt_files, services

LAB = Lab("/l", 2, 10.0, "10.9.0.0/24", "10.9.1.0/24", "/usr/bin/python3", "")


def test_the_daemons_user_replaces_whoever_has_its_name_or_number() -> None:
    files = etc_files(
        [LAB.host(1)],
        "root:x:0:\nkvm:x:108:me\nother:x:36:\n",
        "root:x:0:0::/:/bin/sh\nx:x:36:9::/:/",
        "e.lab",
        "1.2.3.4",
    )
    assert files["group"].splitlines() == ["root:x:0:", "kvm:x:36:"]
    assert files["passwd"].splitlines() == ["root:x:0:0::/:/bin/sh", "vdsm:x:36:36::/:/sbin/nologin"]
    assert "1.2.3.4 e.lab" in files["hosts"].splitlines()
    assert "10.9.0.1 h1.he.lab h1" in files["hosts"].splitlines()


def test_daemons_run_unprivileged_with_one_capability() -> None:
    found = {service.name: service.argv for service in services(LAB.host(2), {})}
    assert list(found) == ["wdmd", "sanlock", "libvirtd", "broker", "agent"]
    assert "--reuid=36" in found["broker"]
    assert "--ambient-caps=-all,+net_raw" in found["broker"]
    assert "--ambient-caps=-all,+kill" in found["agent"]
    assert "--bounding-set=-all,+kill" in found["agent"]


def test_sanlock_and_its_watchdog_live_by_one_clock() -> None:
    clock = {"LD_PRELOAD": "/faketime.so", "FAKETIME": "+0 x10", "FAKETIME_SHARED": "/sem /shm"}
    env = {service.name: service.env for service in services(LAB.host(1), clock)}
    assert env["sanlock"] == clock
    preloads = "/l/native/watchdog_device.so:/faketime.so"
    assert env["wdmd"] == {**clock, "LD_PRELOAD": preloads, **device(LAB)}
    assert not env["libvirtd"]
    assert not any("FAKETIME" in env[name] or "LD_PRELOAD" in env[name] for name in ("broker", "agent"))
    env = {service.name: service.env for service in services(LAB.host(1), {})}
    assert not env["sanlock"]
    assert env["wdmd"] == {"LD_PRELOAD": "/l/native/watchdog_device.so", **device(LAB)}


def test_the_daemons_heap_is_the_units() -> None:
    env = {service.name: service.env for service in services(LAB.host(1), {})}
    for name in ("broker", "agent"):
        unit = (Path(__file__).resolve().parents[2] / "systemd" / f"ovirt-ha-{name}.service").read_text()
        lines = [line for line in unit.splitlines() if line.startswith("Environment=")]
        words = [word for line in lines for word in line[len("Environment=") :].split()]
        assert words and dict(word.split("=", 1) for word in words) == env[name]


def device(lab: Lab) -> "dict[str, str]":
    return {"HE_WATCHDOG_DEVICE": str(lab.host(1).watchdog)}


def test_a_host_without_a_watchdog_until_it_gets_one(tmp_path: Path) -> None:
    bare = Lab(str(tmp_path), 2, 1.0, "10.9.0.0/24", "10.9.1.0/24", "/usr/bin/python3", "", daemons=False)
    watchdog.set_present(bare.host(1), False)
    for host_id, names, flag in ((1, ["sanlock", "libvirtd"], "0"), (2, ["wdmd", "sanlock", "libvirtd"], "1")):
        found = services(bare.host(host_id), {})
        assert [service.name for service in found] == names
        argv = found[-2].argv
        assert argv[argv.index("-w") + 1] == flag
    watchdog.set_present(bare.host(1), True)
    assert services(bare.host(1), {})[0].name == "wdmd"


def test_migration_listener_is_on_the_second_network_only() -> None:
    text = libvirt_files(LAB.host(2), "u")["libvirtd.conf"]
    assert 'listen_addr = "10.9.1.2"' in text.splitlines()
    assert str(Path("/")) not in libvirt_files(LAB.host(2), "u")["qemu-sanlock.conf"]


def test_a_lost_peer_is_noticed_in_the_labs_time() -> None:
    for scale, seconds in ((1.0, 5), (2.0, 2), (10.0, 1), (20.0, 1)):
        files = libvirt_files(replace(LAB, scale=scale).host(1), "u")
        for name in ("libvirtd.conf", "qemu.conf"):
            assert f"keepalive_interval = {seconds}" in files[name].splitlines()
