import base64
import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovirt_he_ha.hypervisor.vm_conf import VmConf, VmConfError, parse_vm_conf

VMID = "11111111-2222-3333-4444-555555555555"
GOOD = f"vmId={VMID}\nmemSize=4096\n"


def test_spaces_comments_and_padding():
    encoded = base64.b64encode(b"<domain />").decode()
    assert encoded.endswith("=")
    text = (
        f"# made\n\n memSize = 4096 # MiB\nvmId={VMID.upper()}\nxmlBase64={encoded}\ndevices={{a:b}}\ndevices={{c:d}}\n"
    )
    assert parse_vm_conf(text) == VmConf(4096, VMID, "<domain />")


def test_last_of_a_repeated_key_counts():
    assert parse_vm_conf(GOOD + "memSize=8192\n").memory_mib == 8192


def test_file_without_xml_is_read():
    assert parse_vm_conf(GOOD).xml == ""


def test_paused_start_is_seen():
    assert parse_vm_conf(GOOD + "launchPaused=true").launch_paused


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("", "memSize"),
        ("memSize=4096", "vmId"),
        (f"vmId={VMID}", "memSize"),
        (f"vmId={VMID}\nmemSize=much", "memSize"),
        (f"vmId={VMID}\nmemSize=0", "memSize"),
        (f"vmId={VMID}\nmemSize=-1", "memSize"),
        (f"vmId={VMID}\nmemSize=9999999999999999999999", "memSize"),
        (f"vmId={VMID}\nmemSize=\u0663", "memSize"),
        ("vmId=../../x\nmemSize=1", "vmId"),
        (GOOD + "xmlBase64=!!!!", "xmlBase64"),
        (GOOD + "xmlBase64=abc", "xmlBase64"),
        (GOOD + "xmlBase64=" + base64.b64encode(b"\xff\xfe").decode(), "xmlBase64"),
        ("a" * (1 << 21), "the file"),
    ],
)
def test_nonsense_names_the_key(text, key):
    with pytest.raises(VmConfError) as error:
        parse_vm_conf(text)
    assert error.value.key == key
    assert "\n" not in str(error.value)


@given(st.text(max_size=300))
def test_any_text_is_read_or_refused(text):
    with contextlib.suppress(VmConfError):
        assert parse_vm_conf(GOOD + text).vm_id
