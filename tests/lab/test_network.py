"""Which networks the lab takes."""

from ipaddress import IPv4Network

import pytest

from ovirt_he_ha.lab.network import BadSubnet, NoFreeSubnet, choose, machine_networks


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
