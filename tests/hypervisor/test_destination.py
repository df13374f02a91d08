import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovirt_he_ha.hypervisor.destination import SCHEMES, BadDestination, destination


@pytest.mark.parametrize(
    ("text", "libvirt_uri", "migrate_uri"),
    [
        ("10.0.0.2", "qemu+tcp://10.0.0.2/system", "tcp://10.0.0.2"),
        ("host-b.example.org", "qemu+tcp://host-b.example.org/system", "tcp://host-b.example.org"),
        ("fd00::2", "qemu+tcp://[fd00::2]/system", "tcp://[fd00::2]"),
        ("[fd00::2]", "qemu+tcp://[fd00::2]/system", "tcp://[fd00::2]"),
        ("qemu+tls://b/system", "qemu+tls://b/system", "tcp://b"),
        ("qemu+tls://[fd00::2]:16514/system", "qemu+tls://[fd00::2]:16514/system", "tcp://[fd00::2]"),
    ],
)
def test_uris(text, libvirt_uri, migrate_uri):
    made = destination(text)
    assert (made.libvirt_uri, made.migrate_uri) == (libvirt_uri, migrate_uri)


def test_scheme_and_port_of_this_cluster():
    made = destination("b", "qemu+tls", 49152)
    assert (made.libvirt_uri, made.migrate_uri) == ("qemu+tls://b/system", "tcp://b:49152")


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "a b",
        "-b",
        "b/system",
        "b:16509",
        "qemu+tcp://b/session",
        "qemu+tcp:///system",
        "qemu+tcp://root@b/system",
        "qemu+tls://b/system?pkipath=/tmp/evil",
        "qemu+ext://b/system?command=/bin/true",
        "test://b/system",
        "qemu+tcp://b:notaport/system",
        "qemu+tcp://[b/system",
        "b\nc",
        "a" * 300,
    ],
)
def test_refused(text):
    with pytest.raises(BadDestination):
        destination(text)


@given(st.text(max_size=60))
def test_only_plain_hosts_get_through(text):
    try:
        made = destination(text)
    except BadDestination:
        return
    assert made.libvirt_uri.split("://")[0] in SCHEMES
    assert made.libvirt_uri.endswith("/system")
    assert not set(" ?#@\n\t\\'\"`$;&|<>") & set(made.libvirt_uri + made.migrate_uri)
