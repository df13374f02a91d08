"""``vm.conf``: ``key=value`` lines that carry the engine VM's libvirt XML in ``xmlBase64``."""

import base64
import binascii
import re
from dataclasses import dataclass
from typing import Dict

MAX_TEXT = 1 << 20  # bytes; the archive that carries it has room for 16,896
MAX_MEMORY_MIB = 64 << 20  # 64 TiB
_BLANKS = re.compile(r"\s+")


class VmConfError(ValueError):
    msg = "vm.conf: {key}: expected {expected}, found {found}"

    def __init__(self, key: str, expected: str, found: str) -> None:
        super().__init__(key, expected, found)
        self.key = key
        self.expected = expected
        self.found = found

    def __str__(self) -> str:
        return self.msg.format(key=self.key, expected=self.expected, found=self.found)


@dataclass(frozen=True)
class VmConf:
    """``xml``: the decoded definition, empty when there is no ``xmlBase64`` (a definition of the time before 4.2).
    ``launch_paused``: the file asks for a paused start."""

    memory_mib: int
    vm_id: str
    xml: str = ""
    launch_paused: bool = False


def parse_vm_conf(text: str) -> VmConf:
    """All white space is dropped, then everything after ``#``; of a repeated key the last one counts; devices are not
    looked at, because only the XML is used. Raises VmConfError."""
    if len(text) > MAX_TEXT:
        raise VmConfError("the file", f"at most {MAX_TEXT} characters", str(len(text)))
    values = _values(text)
    return VmConf(
        memory_mib=_memory(values),
        vm_id=_uuid(values),
        xml=_xml(values["xmlBase64"]) if values.get("xmlBase64") else "",
        launch_paused=values.get("launchPaused", "").lower() == "true",
    )


def _values(text: str) -> Dict[str, str]:
    values: Dict[str, str] = {}
    for line in text.splitlines():
        key, _, value = _BLANKS.sub("", line).partition("#")[0].partition("=")
        if key:
            values[key] = value
    return values


def _memory(values: Dict[str, str]) -> int:
    found = values.get("memSize", "")
    if not (found.isascii() and found.isdigit() and len(found) < 12 and 0 < int(found) <= MAX_MEMORY_MIB):
        raise VmConfError("memSize", "a number of MiB, 1 or more", repr(found[:40]) if found else "nothing")
    return int(found)


def _uuid(values: Dict[str, str]) -> str:
    found = values.get("vmId", "").lower()
    if not re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", found):
        raise VmConfError("vmId", "the VM's UUID", repr(found[:40]) if found else "nothing")
    return found


def _xml(encoded: str) -> str:
    try:
        return base64.b64decode(encoded, validate=True).decode("utf-8")
    except (binascii.Error, ValueError) as e:
        raise VmConfError("xmlBase64", "base64 of an XML document in UTF-8", str(e)) from e
