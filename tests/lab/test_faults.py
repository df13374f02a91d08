"""Faults: which commands they give, which words they say, what they refuse; without a lab."""

import signal
from pathlib import Path
from typing import Any, Dict, List, Sequence, Tuple

import pytest

from ovirt_he_ha.lab import cluster, faults, guest, main, network, process, state, status, view
from ovirt_he_ha.lab.layout import Lab, LabError, LabHost
from ovirt_he_ha.lab.network import Fabric
from ovirt_he_ha.lab.process import ProcessId

ENGINE = ProcessId(10, 100)
KEEPER = ProcessId(5, 50)


class World:
    """What the faults did, and where the engine is."""

    def __init__(self) -> None:
        self.ran: List[Sequence[str]] = []
        self.told: List[str] = []
        self.signals: List[int] = []
        self.storage: List[Tuple[str, str, Dict[str, float]]] = []
        self.engines: Dict[str, List[ProcessId]] = {"h1": [ENGINE]}
        self.off: List[str] = []
        self.gateway = True


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    made = Lab(str(tmp_path), 3, 10.0, "10.9.0.0/24", "10.9.1.0/24", "/usr/bin/python3", "")
    made.log.mkdir()
    return made


@pytest.fixture
def world(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> World:
    made = World()

    def tell(_lab: Lab, word: str) -> float:
        made.told.append(word)
        return 1.0

    def kill(_process: ProcessId, signum: int) -> bool:
        made.signals.append(signum)
        return True

    def set_storage(host: LabHost, mode: str, **parameters: float) -> float:
        made.storage.append((host.name, mode, parameters))
        return 1.0

    monkeypatch.setattr(state, "keeper_of", lambda _directory: KEEPER)
    monkeypatch.setattr(state, "running_lab", lambda _directory: lab)
    monkeypatch.setattr(cluster, "namespace", lambda host: host.name)
    monkeypatch.setattr(cluster, "host_init", lambda host: None if host.name in made.off else 7)
    monkeypatch.setattr(process, "engines", lambda _vm, space: made.engines.get(space, []))
    monkeypatch.setattr(process, "kill", kill)
    monkeypatch.setattr(guest, "tell", tell)
    monkeypatch.setattr(guest, "diary", lambda _lab: None)
    monkeypatch.setattr(network, "batch", lambda commands, pid: made.ran.append(commands))
    monkeypatch.setattr(network, "fabric", lambda pid: Fabric(links(lab, made.gateway)))
    monkeypatch.setattr(view, "set_storage", set_storage)
    return made


def links(lab: Lab, gateway: bool, cut: Sequence[str] = ()) -> List[Dict[str, Any]]:
    """As `ip -json addr show` tells it; host 3 has no power."""
    desk = [{"family": "inet", "local": network.desk_address(lab)}]
    found: List[Dict[str, Any]] = [
        {"ifname": "mgmt0", "flags": ["UP"], "addr_info": desk + [{"local": lab.gateway}] * gateway},
        {"ifname": "second0", "flags": ["UP"], "addr_info": []},
    ]
    for name in ("h1-0", "h1-1", "h2-0", "h2-1"):
        found.append({"ifname": name, "flags": ["BROADCAST"] + ["UP"] * (name not in cut)})
    return found


def he_lab(*words: str) -> int:
    return main.main(list(words))


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("down", "--host", "2"), ["link set h2-0 down"]),
        (("down", "--host", "2", "--all"), ["link set h2-0 down", "link set h2-1 down"]),
        (("up", "--host", "2"), ["link set h2-0 up", "link set h2-1 up"]),
        (("up", "--host", "2", "--all"), ["link set h2-0 up", "link set h2-1 up"]),
        (("down", "--gateway"), ["addr del 10.9.0.254/24 dev mgmt0"]),
        (("up", "--gateway"), ["addr replace 10.9.0.254/24 dev mgmt0"]),
    ],
)
def test_cables(world: World, words: Sequence[str], expected: Sequence[str]) -> None:
    assert he_lab("network", *words) == 0
    assert world.ran == [expected]


def test_everything_up(world: World) -> None:
    world.off = ["h3"]
    assert he_lab("network", "up") == 0
    ports = ["link set h1-0 up", "link set h1-1 up", "link set h2-0 up", "link set h2-1 up"]
    assert world.ran == [["addr replace 10.9.0.254/24 dev mgmt0"], ports]


def test_the_second_network_alone(lab: Lab, world: World) -> None:
    faults.second_network_down(lab.host(1))
    assert world.ran == [["link set h1-1 down"]]


def test_a_gateway_that_is_gone_is_not_taken_again(lab: Lab, world: World) -> None:
    world.gateway = False
    assert he_lab("network", "down", "--gateway") == 0
    assert world.ran == []


@pytest.mark.parametrize(
    "words",
    [
        ("network", "down"),
        ("network", "down", "--all"),
        ("network", "down", "--gateway", "--host", "1"),
        ("network", "up", "--gateway", "--all"),
        ("network", "down", "--host", "9"),
        ("network", "down", "--host", "3"),
        ("storage", "hang", "--host", "9"),
        ("storage", "hang", "--host", "1", "--ms", "5"),
        ("pause", "vm", "--host", "2"),
        ("resume", "vm", "--host", "3"),
        ("kill", "sanlock", "--host", "3"),
    ],
)
def test_one_clear_line(world: World, capsys: pytest.CaptureFixture[str], words: Sequence[str]) -> None:
    world.off = ["h3"]
    assert he_lab(*words) == 1
    told = capsys.readouterr().err
    assert told.startswith("he-lab: ")
    assert told.count("\n") == 1
    assert (world.ran, world.storage) == ([], [])


@pytest.mark.parametrize(
    "words",
    [
        ("hang", "vm", "--how", "sideways"),
        ("hang",),
        ("pause", "host"),
        ("network", "sideways"),
        ("storage", "slow"),
        ("storage", "slow", "--host", "1", "--ms", "0"),
        ("storage", "gone", "--host", "1"),
        ("kill", "everything", "--host", "1"),
    ],
)
def test_bad_words(world: World, words: Sequence[str]) -> None:
    with pytest.raises(SystemExit) as e:
        he_lab(*words)
    assert e.value.code == 2


@pytest.mark.parametrize("verb", list(main.VERBS))
def test_every_verb_explains_itself(capsys: pytest.CaptureFixture[str], verb: str) -> None:
    with pytest.raises(SystemExit) as e:
        he_lab(verb, "--help")
    assert e.value.code == 0
    assert "--dir" in capsys.readouterr().out


def test_storage(world: World) -> None:
    assert he_lab("storage", "slow", "--host", "2", "--ms", "250") == 0
    assert he_lab("storage", "ok", "--host", "2") == 0
    assert world.storage == [("h2", "slow", {"milliseconds": 250}), ("h2", "ok", {})]


def test_hangs_add_up_and_end(lab: Lab, world: World) -> None:
    for how in ("acpi", "health", "acpi"):
        assert he_lab("hang", "vm", "--how", how) == 0
    assert guest.Book(lab).hangs([ENGINE]) == ["acpi", "health"]
    assert he_lab("hang", "vm", "--how", "ok") == 0
    assert guest.Book(lab).hangs([ENGINE]) == []
    assert world.told == ["acpi", "health", "acpi", "ok"]
    assert world.signals == [signal.SIGCONT]


def test_the_process_is_stopped_without_a_word_to_the_guest(world: World) -> None:
    assert he_lab("hang", "vm", "--how", "qemu") == 0
    assert world.signals == [signal.SIGSTOP]
    assert world.told == []


def test_a_hang_that_was_not_told_is_not_remembered(lab: Lab, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def silent(_lab: Lab, _word: str) -> float:
        raise guest.GuestUnreachable(lab, "timed out")

    monkeypatch.setattr(guest, "tell", silent)
    assert he_lab("hang", "vm") == 1
    assert guest.Book(lab).hangs([ENGINE]) == []


@pytest.mark.parametrize("engines", [{}, {"h1": [ENGINE], "h2": [ProcessId(11, 110)]}])
def test_which_engine(lab: Lab, world: World, engines: Dict[str, List[ProcessId]]) -> None:
    world.engines = engines
    with pytest.raises(LabError):
        faults.hang_vm(lab, "health")
    assert world.told == []


def test_in_force(lab: Lab, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    modes = {"h1": "hang", "h2": "ok"}
    monkeypatch.setattr(view, "storage_mode", lambda host: modes[host.name])
    monkeypatch.setattr(network, "fabric", lambda pid: Fabric(links(lab, False, cut=("h1-1", "h2-0", "h2-1"))))
    monkeypatch.setattr(faults, "_is_paused", lambda _host: True)
    monkeypatch.setattr(guest, "stopped", lambda copy: copy == ENGINE)
    faults.hang_vm(lab, "panic")
    found = faults.in_force(lab, [1, 2])
    assert found == {
        "gateway": True,
        "network": {1: ["second"], 2: ["management", "second"]},
        "storage": {1: "hang"},
        "guest": ["panic", "qemu", "paused"],
    }
    line = "; ".join(status._fault_words(found))
    for word in ("gateway", "panic", "h2: management and second", "h1: storage hang"):
        assert word in line


def test_nothing_in_force(lab: Lab, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(view, "storage_mode", lambda host: "ok")
    world.engines = {}
    found = faults.in_force(lab, [1, 2])
    assert found == {"gateway": False, "network": {}, "storage": {}, "guest": []}
    assert status._fault_words(found) == []


def test_the_gateway_is_not_the_first_address(lab: Lab) -> None:
    """The first one is where the observer asks from, and removing it would take the other along."""
    commands = network.fabric_commands(lab)
    added = [command for command in commands if command.startswith("addr ")]
    assert added == ["addr add 10.9.0.253/24 dev mgmt0", "addr replace 10.9.0.254/24 dev mgmt0"]
