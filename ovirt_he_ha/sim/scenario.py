"""A story of one cluster, as data: a folder with a README, and ``scenario.json`` with cluster, faults, expectation."""

import json
import os
import stat
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Tuple, Union

from ovirt_he_ha.core.model import MAX_HOST_ID
from ovirt_he_ha.sim import fault_kinds, healing, sabotage, upstream_faults
from ovirt_he_ha.sim.expectation import EXPECTATIONS, Expectation, Field
from ovirt_he_ha.sim.faults import KINDS, NAMES, Fault, Parameter
from ovirt_he_ha.sim.host import HostSpec
from ovirt_he_ha.sim.probes import Conditions
from ovirt_he_ha.sim.world import ClusterSpec

FILE = "scenario.json"
README = "README"
MOST_HOSTS = 250
LARGEST = 16 << 20  # bytes of a file
_LONGEST_PLACE = 80  # characters of it that are shown
LONGEST = 1e6
_ = (fault_kinds, healing, sabotage, upstream_faults)  # the kinds are in its tables


class ScenarioError(Exception):
    """One line: which file, which field, what was expected and what was found."""

    def __init__(self, file: Union[str, Path], place: str, expected: str, found: object) -> None:
        shown = json.dumps(found, sort_keys=True, default=str)
        shown = shown if len(shown) <= 60 else shown[:57]
        super().__init__(f"{_one_line(str(file))}: {_short(_one_line(place))}: expected {expected}, found {shown}")


def _one_line(text: str) -> str:
    """Names of files and keys may hold anything: none of it makes a second line, or steers a terminal."""
    return "".join(each if each.isprintable() else "?" for each in text)


def _short(place: str) -> str:
    return place if len(place) <= _LONGEST_PLACE else place[:_LONGEST_PLACE] + "..."


class _Twice(ValueError):
    """A key that an object has twice: one of the two would be lost without a word."""


@dataclass(frozen=True)
class Scenario:
    name: str
    about: str
    cluster: ClusterSpec
    faults: Tuple[Fault, ...]
    expect: Tuple[Expectation, ...]
    length: float
    seed: int = 0
    progress: bool = True


class Reader:
    """Typed access to one JSON object; every failure names the place in the file."""

    def __init__(self, file: Union[str, Path], place: str, value: object, keys: Tuple[str, ...]) -> None:
        if not isinstance(value, dict):
            raise ScenarioError(file, place or "the file", "an object", value)
        self.file = file
        self.place = place
        self.values: Dict[str, Any] = value
        for key in sorted(value):
            if key not in keys:
                raise ScenarioError(file, self.at(key), "one of " + ", ".join(sorted(keys)), key)

    def at(self, key: str) -> str:
        return f"{self.place}.{key}" if self.place else key

    def refuse(self, key: str, expected: str) -> ScenarioError:
        return ScenarioError(self.file, self.at(key), expected, self.values.get(key))

    def number(self, key: str, low: float, high: float, default: Optional[float] = None) -> float:
        value = self.values.get(key, default)
        fits = isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value <= high
        if not fits or value is None:
            raise self.refuse(key, f"a number from {low:g} to {high:g}")
        return float(value)

    def whole(self, key: str, low: int, high: int, default: Optional[int] = None) -> int:
        value = self.values.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise self.refuse(key, f"a whole number from {low} to {high}")
        return value

    def flag(self, key: str, default: bool) -> bool:
        value = self.values.get(key, default)
        if not isinstance(value, bool):
            raise self.refuse(key, "true or false")
        return value

    def word(self, key: str, words: Tuple[str, ...]) -> str:
        value = self.values.get(key)
        if not isinstance(value, str) or value not in words:
            raise self.refuse(key, "one of " + ", ".join(words))
        return value

    def objects(self, key: str) -> List[object]:
        value = self.values.get(key, [])
        if not isinstance(value, list):
            raise self.refuse(key, "a list")
        return value


def load(folder: Union[str, Path]) -> Scenario:
    """The scenario of a folder. Raises ScenarioError."""
    path = Path(folder)
    readme, file = path / README, path / FILE
    try:
        about = readme.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        raise ScenarioError(readme, "the file", "a text that says what the scenario shows", None) from None
    if not about:
        raise ScenarioError(readme, "line 1", "what the scenario shows", "")
    return parse(path.name, about, document_of(file, contents(file)), file)


def contents(file: Union[str, Path]) -> bytes:
    """Raises ScenarioError for what cannot be read, is no file (a pipe would never end), or is larger than any."""
    try:
        handle = os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(handle, "rb") as stream:
            status = os.fstat(stream.fileno())
            if stat.S_ISREG(status.st_mode) and status.st_size <= LARGEST:
                return stream.read(LARGEST)
    except OSError as error:
        raise ScenarioError(file, "the file", "a readable file", error.strerror) from None
    found = f"{status.st_size} bytes" if stat.S_ISREG(status.st_mode) else "something else"
    raise ScenarioError(file, "the file", f"a file of at most {LARGEST} bytes", found)


def document_of(file: Union[str, Path], data: bytes) -> object:
    """The JSON of that file. Raises ScenarioError."""
    try:
        return json.loads(data.decode("utf-8"), object_pairs_hook=_object)
    except _Twice as error:
        raise ScenarioError(file, str(error), "each key of an object once", "twice") from None
    except (ValueError, RecursionError) as error:
        raise ScenarioError(file, "the file", "JSON", str(error)) from None


def _object(pairs: List[Tuple[str, Any]]) -> Dict[str, Any]:
    found: Dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise _Twice(key)
        found[key] = value
    return found


def parse(name: str, about: str, document: object, file: Union[str, Path] = FILE) -> Scenario:
    """Raises ScenarioError."""
    keys = ("seed", "length", "cluster", "faults", "expect", "progress")
    root = Reader(file, "", document, keys)
    cluster = _cluster(root)
    length = root.number("length", 1, LONGEST)
    faults, expected = root.objects("faults"), root.objects("expect")
    return Scenario(
        name=name,
        about=about,
        cluster=cluster,
        faults=tuple(_fault(root, index, each, cluster.hosts, length) for index, each in enumerate(faults)),
        expect=tuple(_expect(root, index, each, cluster.hosts, length) for index, each in enumerate(expected)),
        length=length,
        seed=root.whole("seed", 0, 1 << 62, 0),
        progress=root.flag("progress", True),
    )


def document(scenario: Scenario) -> Dict[str, Any]:
    """What :func:`parse` reads: the way to write a folder for a run that was found elsewhere."""
    plain, given = ClusterSpec(), scenario.cluster
    cluster = {each.name: getattr(given, each.name) for each in fields(ClusterSpec) if each.name != "each"}
    cluster = {key: value for key, value in cluster.items() if value != getattr(plain, key) or key == "hosts"}
    if given.each:
        cluster["each"] = {str(host): dict(spec) for host, spec in sorted(given.each.items())}
    return {
        "seed": scenario.seed,
        "length": scenario.length,
        "progress": scenario.progress,
        "cluster": cluster,
        "faults": [_fault_document(fault) for fault in scenario.faults],
        "expect": [{"what": each.what, **each.values} for each in scenario.expect],
    }


def _fault_document(fault: Fault) -> Dict[str, Any]:
    found: Dict[str, Any] = {"at": fault.at, "kind": fault.kind}
    if fault.host:
        found["host"] = fault.host
    if fault.seconds is not None:
        found["for"] = fault.seconds
    if fault.parameters:
        found["with"] = dict(fault.parameters)
    return found


# --- the parts --------------------------------------------------------------------------------------------------------


def _cluster(root: Reader) -> ClusterSpec:
    names = tuple(each.name for each in fields(ClusterSpec))
    reader = Reader(root.file, root.at("cluster"), root.values.get("cluster", {}), names)
    hosts = reader.whole("hosts", 1, MOST_HOSTS, 3)
    each = reader.values.get("each", {})
    if not isinstance(each, dict):
        raise reader.refuse("each", "an object: host number to what is different there")
    specs: Dict[int, Mapping[str, Any]] = {}
    numbers = {str(number) for number in range(1, hosts + 1)}  # "01" and "1" would be the same host
    for key in sorted(each):
        if key not in numbers:
            raise ScenarioError(root.file, f"cluster.each.{key}", f"a host number from 1 to {hosts}", key)
        specs[int(key)] = _host(root, f"cluster.each.{key}", each[key])
    plain = ClusterSpec()
    return ClusterSpec(
        hosts=hosts,
        warm=reader.flag("warm", plain.warm),
        engine_on=reader.whole("engine_on", 0, hosts, 1),
        io_timeout=reader.whole("io_timeout", 1, 30, plain.io_timeout),
        watchdog=reader.whole("watchdog", 10, 120, plain.watchdog),
        guest_boot=reader.number("guest_boot", 0, 3600, plain.guest_boot),
        memory_mib=reader.whole("memory_mib", 64, 1 << 20, plain.memory_mib),
        skew=reader.number("skew", 0, 3600, plain.skew),
        each=specs,
    )


_HOST_NUMBERS = {"start": (0, 1e5), "rate": (0.99, 1.01), "jitter": (0, 15), "latency": (0, 5), "boot": (1, 3600)}
_HOST_FLAGS = ("watchdog", "allow_unfenced", "migrates", "upstream")


def _host(root: Reader, place: str, value: object) -> Mapping[str, Any]:
    reader = Reader(root.file, place, value, tuple(each.name for each in fields(HostSpec)))
    found: Dict[str, Any] = {}
    for key in sorted(reader.values):
        if key in _HOST_NUMBERS:
            found[key] = reader.number(key, *_HOST_NUMBERS[key])
        elif key in _HOST_FLAGS:
            found[key] = reader.flag(key, True)
        elif key == "conf_id":
            found[key] = reader.whole(key, 0, MAX_HOST_ID)
        else:
            found[key] = _conditions(root, f"{place}.{key}", reader.values[key])
    return found


_CONDITION_NUMBERS = {"network": (0, 1), "mem_free": (0, 1 << 24), "cpu_load": (0, 1)}
_UNMEASURED = ("network", "bridge", "mem_free", "cpu_load")


def _conditions(root: Reader, place: str, value: object) -> Mapping[str, Any]:
    reader = Reader(root.file, place, value, tuple(each.name for each in fields(Conditions)))
    found: Dict[str, Any] = {}
    for key in sorted(reader.values):
        if key in _CONDITION_NUMBERS:
            found[key] = reader.number(key, *_CONDITION_NUMBERS[key])
        elif key == "unknown":
            names = reader.objects(key)
            if not all(name in _UNMEASURED for name in names):
                raise reader.refuse(key, "a list of " + ", ".join(_UNMEASURED))
            found[key] = tuple(str(name) for name in names)
        else:
            found[key] = reader.flag(key, True)
    return found


def _fault(root: Reader, index: int, value: object, hosts: int, length: float) -> Fault:
    """One that begins after the end would say nothing, and look as if it did."""
    reader = Reader(root.file, f"faults[{index}]", value, ("at", "kind", "host", "for", "with"))
    name = reader.word("kind", tuple(sorted(KINDS)))
    found = KINDS[name]
    if "for" in reader.values and not found.lasting:
        raise reader.refuse("for", f"nothing: {name} has no duration")
    given = Reader(root.file, reader.at("with"), reader.values.get("with", {}), tuple(found.parameters))
    return Fault(
        at=reader.number("at", 0, length),
        kind=name,
        host=_fault_host(reader, hosts),
        seconds=reader.number("for", 0, LONGEST) if "for" in reader.values else None,
        parameters={key: _parameter(given, key, found.parameters[key]) for key in sorted(given.values)},
    )


def _fault_host(reader: Reader, hosts: int) -> Union[int, str]:
    value = reader.values.get("host", 0)
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= hosts:
        return value
    if isinstance(value, str) and value in NAMES:
        return value
    raise reader.refuse("host", f"a host number up to {hosts}, or " + ", ".join(NAMES))


def _parameter(reader: Reader, key: str, parameter: Parameter) -> Any:
    if parameter.words:
        return reader.word(key, parameter.words)
    return reader.number(key, parameter.low, parameter.high)


def _expect(root: Reader, index: int, value: object, hosts: int, length: float) -> Expectation:
    place = f"expect[{index}]"
    what = value.get("what") if isinstance(value, dict) else None
    if not isinstance(what, str) or what not in EXPECTATIONS:
        raise ScenarioError(root.file, f"{place}.what", "one of " + ", ".join(sorted(EXPECTATIONS)), what)
    template = EXPECTATIONS[what].fields
    reader = Reader(root.file, place, value, ("what", *template))
    found = {}
    for key, field in template.items():
        if key in reader.values:
            longest = length if key in _WITHIN else LONGEST
            found[key] = _expected_value(reader, key, field, hosts, longest)
        elif field.needed:
            raise reader.refuse(key, f"a {field.kind}")
    if what == "back" and ("seconds" in found) == ("bound" in found):
        raise ScenarioError(root.file, place, "either seconds or bound", sorted(found))
    return Expectation(what, found)


_WITHIN = (
    "at",
    "after",
    "until",
)  # moments of the run: what is expected of a time that never comes would always be met


def _expected_value(reader: Reader, key: str, field: Field, hosts: int, longest: float) -> Any:
    if field.kind == "number":
        return reader.number(key, 0, longest)
    if field.kind == "host":
        return reader.whole(key, 1, hosts)
    if field.kind == "word":
        return reader.word(key, field.words)
    value = reader.values[key]
    if not isinstance(value, str):
        raise reader.refuse(key, "a text")
    return value
