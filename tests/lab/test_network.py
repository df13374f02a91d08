"""Which networks the lab takes."""

import socket
from ipaddress import IPv4Network
from typing import List, Sequence, Tuple

import pytest

from ovirt_he_ha.lab import network
from ovirt_he_ha.lab.layout import Lab
from ovirt_he_ha.lab.network import BadSubnet, NoFreeSubnet, StillPlugged, choose, machine_networks


def test_first_free_pair() -> None:
    assert choose("", []) == ("10.77.0.0/24", "10.77.1.0/24")
    assert choose("", [IPv4Network("10.77.1.128/25")]) == ("10.77.2.0/24", "10.77.3.0/24")
    assert choose("", [IPv4Network("192.168.0.0/16"), IPv4Network("10.77.0.0/22")])[0] == "10.77.4.0/24"


def test_nothing_free() -> None:
    with pytest.raises(NoFreeSubnet):
        choose("", [IPv4Network("10.0.0.0/8")])


def test_asked_for() -> None:
    """Everything is inside namespaces: what is asked for is taken, whatever the machine has."""
    assert choose("10.1.2.0/24", [IPv4Network("10.0.0.0/8")]) == ("10.1.2.0/24", "10.1.3.0/24")


@pytest.mark.parametrize("text", ["10.1.2.0/16", "10.1.2.1/24", "10.1.2.0/25", "fe80::/64", "lab", "255.255.255.0/24"])
def test_unusable(text: str) -> None:
    with pytest.raises(BadSubnet):
        choose(text, [])


def test_the_machines_routes_are_read() -> None:
    assert all(isinstance(network, IPv4Network) for network in machine_networks())


HOST = Lab("/lab", 3, 10.0, "10.77.4.0/24", "10.77.5.0/24", "/usr/bin/python3", "").host(3)


class Cables:
    """Those of two hosts; nothing but ``ip link delete`` takes one away."""

    def __init__(self) -> None:
        self.there = ["h1-0", "h3-0", "h3-1"]
        self.stuck: List[str] = []

    def names(self) -> List[Tuple[int, str]]:
        return list(enumerate(self.there))

    def run(self, argv: Sequence[str]) -> str:
        assert list(argv[:3]) == ["ip", "link", "delete"]
        if argv[3] in self.stuck:
            raise network.CommandFailed(argv, "busy")
        self.there.remove(argv[3])
        return ""


@pytest.fixture
def cables(monkeypatch: pytest.MonkeyPatch) -> Cables:
    made = Cables()
    monkeypatch.setattr(socket, "if_nameindex", made.names)
    monkeypatch.setattr(network, "run", made.run)
    monkeypatch.setattr(network, "UNPLUG_ALONE", 0.01)
    monkeypatch.setattr(network, "UNPLUG_LIMIT", 0.2)
    return made


def test_cables_that_the_kernel_does_not_clear_up_are_pulled(cables: Cables) -> None:
    """Else a host could not be powered on again while the machine ends others' network namespaces."""
    network.await_unplugged(HOST)
    assert cables.there == ["h1-0"]


def test_cables_that_stay_are_named(cables: Cables) -> None:
    cables.stuck = ["h3-1"]
    with pytest.raises(StillPlugged, match=r"h3 .*h3-1"):
        network.await_unplugged(HOST)
    assert cables.there == ["h1-0", "h3-1"]
