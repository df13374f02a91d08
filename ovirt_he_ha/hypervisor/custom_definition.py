"""What an administrator adds to the engine VM's definition, or puts in its place.

The management application's definition is taken as it is (and checked, like every one). A custom one may hold what the
application itself would write, and beyond that only the elements that the administrator of this host has allowed in
agent.conf. What guards the VM cannot be changed by either.
"""

from dataclasses import dataclass
from typing import FrozenSet, List, Tuple

from ovirt_he_ha.config.files import AgentConf
from ovirt_he_ha.config.text import read_text
from ovirt_he_ha.hypervisor.xml_document import Element, XmlProblem, document, local_name

# Top elements whose children are elements of their own: ``devices/rng``, ``os/loader``.
OPENED = ("devices", "os")
ORDINARY = frozenset(
    [
        *("name", "uuid", "title", "description", "metadata", "memory", "currentMemory", "maxMemory", "memtune"),
        *("vcpu", "vcpus", "iothreads", "cputune", "numatune", "resource", "sysinfo", "features", "cpu", "clock", "pm"),
        *("on_poweroff", "on_reboot", "on_crash", "on_lockfailure"),
        *("os/type", "os/smbios", "os/bios", "os/bios_serial", "os/boot", "os/bootmenu", "os/loader", "os/nvram"),
        *(f"devices/{name}" for name in ("lease", "disk", "controller", "interface", "graphics", "video", "console")),
        *(f"devices/{name}" for name in ("serial", "channel", "input", "memballoon", "rng", "panic", "watchdog")),
    ]
)
# Never by an addition: the VM's identity, and what makes a start safe.
GUARDED = frozenset(
    ["name", "uuid", "metadata", "devices/lease", "on_poweroff", "on_reboot", "on_crash", "on_lockfailure"]
)


class CustomRefused(ValueError):
    """``element`` is not allowed, or the addition is no XML of a domain."""

    msg = "{source}: {element}: expected {expected}, found {found}"

    def __init__(self, source: str, element: str, expected: str, found: str) -> None:
        super().__init__(source, element, expected, found)
        self.source = source
        self.element = element
        self.expected = expected
        self.found = found

    def __str__(self) -> str:
        return self.msg.format(source=self.source, element=self.element, expected=self.expected, found=self.found)


@dataclass(frozen=True)
class Custom:
    """``allowed``: element paths such as ``memoryBacking`` or ``devices/hostdev``. ``extra``: an XML document whose
    root is ``domain``, or empty; ``source`` is its file."""

    allowed: FrozenSet[str] = frozenset()
    extra: str = ""
    source: str = ""


def load_custom(conf: AgentConf) -> Custom:
    """As this host's agent.conf says. Raises ConfigError if the file that it names cannot be read."""
    extra = read_text(conf.extra_xml) if conf.extra_xml else ""
    return Custom(frozenset(conf.allowed_elements), extra, conf.extra_xml)


def check_elements(root: Element, allowed: FrozenSet[str], source: str) -> None:
    """Every element of a definition that somebody wrote by hand. Raises CustomRefused with the first one that neither
    the management application writes nor the administrator has allowed."""
    for path, _ in elements(root):
        if path not in ORDINARY and path not in allowed:
            raise CustomRefused(source, path, _expected(allowed), "this element")


def extend(root: Element, custom: Custom) -> None:
    """Add the extra elements to a definition: those of ``devices`` beside what is there, the others in place of the one
    with their name. Raises CustomRefused."""
    if not custom.extra:
        return
    try:
        extra = document(custom.extra.encode("utf-8", "replace"))
    except XmlProblem as problem:
        raise CustomRefused(custom.source, "the document", problem.expected, problem.found) from None
    if extra.tag != "domain":
        raise CustomRefused(custom.source, "the root element", "domain", str(extra.tag)[:80])
    found = elements(extra)
    for path, _ in found:
        if path in GUARDED or path not in custom.allowed:
            raise CustomRefused(custom.source, path, _expected(custom.allowed - GUARDED), "this element")
    for path, node in found:
        _place(root, path, node)


def _expected(allowed: FrozenSet[str]) -> str:
    names = ", ".join(sorted(allowed)) or "none yet"
    return f"an element that allowed-elements in section [definition] of agent.conf names ({names})"


def elements(root: Element) -> List[Tuple[str, Element]]:
    found: List[Tuple[str, Element]] = []
    for node in root:
        if node.tag in OPENED:
            found += [(f"{node.tag}/{_name(child)}", child) for child in node]
        else:
            found.append((_name(node), node))
    return found


def _name(node: Element) -> str:
    """With the namespace's end, if there is one: ``qemu/1.0:commandline``."""
    tag = str(node.tag)
    if not tag.startswith("{"):
        return tag
    namespace = tag[1:].partition("}")[0]
    return "/".join(namespace.rstrip("/").split("/")[-2:]) + ":" + local_name(node)


def _place(root: Element, path: str, node: Element) -> None:
    parent, _, name = path.rpartition("/")
    place = root
    if parent:
        place = root.find(parent)
        if place is None:
            place = root.makeelement(parent)
            root.append(place)
    if parent != "devices":
        for old in place.findall(name):
            place.remove(old)
    place.append(node)
