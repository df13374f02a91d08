import http.server
import json
import socket
import subprocess
import sys
import threading
from dataclasses import replace
from typing import Iterator, List, Tuple, Type

import pytest

from ovirt_he_ha.broker.protocol import FaultCode, PublishFacts, StorageFacts
from ovirt_he_ha.broker.rpc import Fault
from ovirt_he_ha.cli import health_page
from ovirt_he_ha.config.health import HEALTH_PATH
from ovirt_he_ha.config.paths import HostPaths
from ovirt_he_ha.core import slot
from ovirt_he_ha.core.model import EngineStatus, Health, LockspaceState, Reading, Vm
from ovirt_he_ha.storage.newest_store import NewestStore
from ovirt_he_ha.storage.ovf_store import Description, StoreVolume
from ovirt_he_ha.storage.refusal import UNVERIFIED, Refusal
from tests.cli.world import UP, World, record, run

KEYS = [
    "host-id",
    "host-ts",
    "score",
    "engine-status",
    "hostname",
    "maintenance",
    "stopped",
    "crc32",
    "conf_on_shared_storage",
    "local_conf_timestamp",
    "live-data",
    "extra",
]


def test_json_has_one_object_with_the_known_keys(world: World) -> None:
    world.publish(record(1, engine=UP), record(2), record(3))
    world.alive = [1, 2]
    ran = run("--vm-status", "--json")
    assert ran.status == 0 and ran.err == "" and ran.out.count("\n") == 1
    answer = ran.json
    assert list(answer) == ["1", "2", "3", "global_maintenance"]
    assert answer["global_maintenance"] is False
    for host in "123":
        assert list(answer[host])[: len(KEYS)] == KEYS
    assert answer["1"]["engine-status"] == {"vm": "up", "health": "good", "detail": "Up"}
    assert answer["2"]["engine-status"]["vm"] == "down"
    assert [answer[host]["live-data"] for host in "123"] == [True, True, False]
    assert "state=EngineDown\n" in answer["2"]["extra"]
    assert [answer[host]["local-host"] for host in "123"] == [True, False, False]
    assert answer["1"]["problems"] == []


def test_layout(world: World) -> None:
    one = record(1, engine=UP)
    world.publish(one, record(2))
    world.alive = [1]
    ran = run("--json", "--vm-status")
    crc = ran.json["1"]["crc32"]
    ran = run("--vm-status")
    lines = ran.out.splitlines()
    assert ran.status == 0
    assert lines[:15] == [
        "",
        "",
        "--== Host host1 (id: 1) status ==--",
        "",
        "Host ID                            : 1",
        "Host timestamp                     : 1001",
        "Score                              : 3400",
        'Engine status                      : {"vm": "up", "health": "good", "detail": "Up"}',
        "Hostname                           : host1",
        "Local maintenance                  : False",
        "stopped                            : False",
        f"crc32                              : {crc}",
        "conf_on_shared_storage             : True",
        "local_conf_timestamp               : 990",
        "Status up-to-date                  : True",
    ]
    assert lines[15] == "Extra metadata (valid at timestamp):"
    assert lines[16] == "\tmetadata_parse_version=1"
    second = lines.index("--== Host host2 (id: 2) status ==--")
    assert lines[second - 2 : second] == ["", ""]
    assert "Engine status                      : unknown stale-data" in lines[second:]
    assert "Status up-to-date                  : False" in lines[second:]


def test_global_maintenance_stands_before_and_after_the_hosts(world: World) -> None:
    world.publish(record(1))
    world.slots[0] = slot.encode_global(True)
    lines = [line for line in run("--vm-status").out.splitlines() if line]
    assert "GLOBAL MAINTENANCE" in lines[0] and lines[0].startswith("!!") and lines[0].endswith("!!")
    assert lines[-1] == lines[0]
    assert run("--vm-status", "--json").json["global_maintenance"] is True


def test_one_unreadable_slot_is_one_invalid_host(world: World) -> None:
    world.publish(record(1), record(3))
    world.slots[2] = b"\xff" * 4096
    answer = run("--vm-status", "--json").json
    assert answer["2"]["invalid"]["reason"]
    assert answer["2"]["live-data"] is False and answer["2"]["score"] == 0
    assert list(answer["2"])[: len(KEYS)] == KEYS
    assert "invalid" not in answer["1"] and "invalid" not in answer["3"]
    assert "invalid: " in run("--vm-status").out


def test_a_host_without_a_reading_yet(world: World) -> None:
    world.publish(record(1, engine=None))
    assert run("--vm-status", "--json").json["1"]["engine-status"]["vm"] == "unknown"
    assert run("--vm-status").status == 0


def test_no_host_at_all(world: World) -> None:
    ran = run("--vm-status", "--json")
    assert ran.status == 1 and ran.json["global_maintenance"] is False and ran.json["error"]["code"] == "no-hosts"
    ran = run("--vm-status")
    assert ran.status == 1 and ran.out == "" and ran.err


def test_what_a_slot_says_does_not_steer_the_terminal(world: World) -> None:
    """Anybody with the volume can write one; what our own agents write is printable."""
    world.publish(record(1), record(2))
    world.slots[2] = world.slots[2].replace(b"state=EngineDown", b"state=\x1b[2J\x07\x7f")
    ran = run("--vm-status")
    assert ran.status == 0 and "\tstate=?[2J??" in ran.out
    assert run("--vm-status", "--json").json["2"]["extra"].count("\x1b") == 1


def test_empty_slots_are_nobody(world: World) -> None:
    world.publish(record(1))
    world.slots[7] = bytes(4096)
    assert "7" not in run("--vm-status", "--json").json


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"storage": StorageFacts("missing", 5.0, "/dev/x")}, "storage-missing"),
        ({"storage": StorageFacts("starting")}, "storage-starting"),
        ({"publish": PublishFacts(3.0, overwritten=True)}, "slot-overwritten"),
        ({"publish": PublishFacts(90.0, problem="overdue")}, "publish"),
    ],
)
def test_problems_of_this_host_are_named(world: World, change: dict, code: str) -> None:
    world.publish(record(1))
    world.facts = replace(world.facts, **change)
    assert [problem["code"] for problem in run("--vm-status", "--json").json["1"]["problems"]] == [code]
    assert "(id: 1) has problems:" in run("--vm-status").out


def test_an_interrupted_connection_is_told_with_the_way_on(world: World) -> None:
    """Nobody connects the storage again by himself: the broker may not, and the unit has done its work."""
    world.publish(record(1))
    refusal = HostPaths.from_env().storage_refusal
    Refusal(refusal).note(UNVERIFIED)
    assert "--connect-storage" not in run("--vm-status").out  # the lockspace is held all the same
    world.leases(lockspace=Reading.of(LockspaceState.NOT_HELD))
    assert "hosted-engine --connect-storage" in run("--vm-status").out
    assert "hosted-engine --connect-storage" in run("--why").err
    (problem,) = run("--vm-status", "--json").json["1"]["problems"]
    assert problem["code"] == "lockspace-not-held" and UNVERIFIED in problem["text"]
    Refusal(refusal).clear()
    assert "--connect-storage" not in run("--vm-status").out


def test_a_definition_that_went_back_is_told(world: World) -> None:
    world.publish(record(1))
    paths = HostPaths.from_env()
    newest = NewestStore(paths.ovf_seen, "sd")
    for day in (2, 1):
        newest.note([StoreVolume("/x", Description(date=(2026, 11, day, 0, 0, 0)))])
    assert [problem["code"] for problem in run("--vm-status", "--json").json["1"]["problems"]] == ["definition-older"]


@pytest.mark.parametrize("state", [state for state in LockspaceState if state is not LockspaceState.HELD])
@pytest.mark.parametrize("which", ["lockspace", "whiteboard"])
def test_every_state_of_a_lockspace_is_named(world: World, which: str, state: LockspaceState) -> None:
    world.publish(record(1))
    world.leases(**{which: Reading.of(state)})
    assert [problem["code"] for problem in run("--vm-status", "--json").json["1"]["problems"]] == [
        f"{which}-{state.value}"
    ]


def test_libvirt_and_agent_and_lease_problems_are_named(world: World) -> None:
    world.publish(record(1))
    world.alive = [2]
    world.facts = replace(world.facts, monitors=replace(world.facts.monitors, engine=Reading.missing("no-libvirt")))
    assert [p["code"] for p in run("--vm-status", "--json").json["1"]["problems"]] == ["engine-unknown", "agent"]
    world.engine(UP, lease_defined=False)
    assert [p["code"] for p in run("--vm-status", "--json").json["1"]["problems"]] == ["foreign-lease", "agent"]


def test_an_unreadable_global_flag_is_named(world: World) -> None:
    world.publish(record(1))
    world.slots[0] = b"\xff" * 4096
    answer = run("--vm-status", "--json").json
    assert [problem["code"] for problem in answer["1"]["problems"]] == ["global-flag"]


def test_without_a_broker(host: World) -> None:
    ran = run("--vm-status", "--json")
    assert ran.status == 1 and ran.json["error"]["code"] == "broker-no-socket" and ran.err == ""
    ran = run("--vm-status")
    assert ran.status == 1 and ran.out == "" and "ovirt-ha-broker" in ran.err


def test_a_fault_of_the_broker(world: World) -> None:
    world.refuse["snapshot"] = Fault(FaultCode.STOPPING, "the broker is stopping")
    ran = run("--vm-status", "--json")
    assert ran.status == 1 and ran.json["error"]["code"] == "broker-fault"


def test_a_typing_error_in_json_mode_is_json_too(world: World) -> None:
    ran = run("--vm-status", "--json", "--bogus")
    assert ran.status == 1 and ran.json["error"]["code"] == "usage"


def test_not_deployed(host: World) -> None:
    host.configure(vmid="")
    ran = run("--vm-status")
    assert ran.status == 1 and ran.out and not ran.err
    assert run("--vm-status", "--json").json["error"]["code"] == "not-deployed"
    ran = run("--check-deployed")
    assert ran.status == 1 and ran.out.count("\n") == 1
    host.paths.hosted_engine_conf.unlink()
    assert run("--check-deployed").status == 1


def test_deployed(host: World) -> None:
    ran = run("--check-deployed")
    assert ran.status == 0 and ran.out.count("\n") == 1


def test_half_deployed(host: World) -> None:
    host.configure(vmid="")
    defined = host.root / "etc" / "libvirt" / "qemu" / "HostedEngineLocal.xml"
    defined.parent.mkdir(parents=True)
    defined.write_text("<domain/>")
    assert run("--vm-status").status == 2
    assert run("--vm-status", "--json").json["error"]["code"] == "half-deployed"


def test_configuration_not_fetched_says_why(world: World) -> None:
    world.paths.vm_conf.unlink()
    world.facts = replace(world.facts, storage=StorageFacts("missing", 5.0, "/dev/x"))
    ran = run("--vm-status")
    assert ran.status == 1 and ran.out.count("\n") == 3 and "missing" in ran.out
    world.alive = []
    assert "ovirt-ha-agent" in run("--vm-status").out
    assert run("--vm-status", "--json").json["error"]["code"] == "configuration-not-fetched"


def test_nonsense_in_the_configuration_names_file_and_key(host: World) -> None:
    host.configure(host_id="many")
    ran = run("--vm-status")
    assert ran.status == 1 and str(host.paths.hosted_engine_conf) in ran.err and "host_id" in ran.err
    assert ran.err.count("\n") == 1
    host.paths.hosted_engine_conf.write_bytes(b"\xff\xfe\x00")
    assert run("--vm-status", "--json").json["error"]["code"] == "configuration"


def test_an_unfinished_deployment(host: World) -> None:
    host.configure(configured="False")
    assert run("--vm-status", "--json").json["error"]["code"] == "not-configured"


def test_a_defect_of_ours_is_one_line(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ovirt_he_ha.cli.sources.read_hosts", lambda *_: 1 / 0)
    ran = run("--vm-status", "--json")
    assert ran.status == 1 and ran.json["error"]["code"] == "internal"
    assert run("--vm-status").err.count("\n") == 1


# --- the health page ---------------------------------------------------------------------------------------------


class Page(http.server.BaseHTTPRequestHandler):
    server: http.server.ThreadingHTTPServer
    answer: Tuple[int, bytes] = (200, b"DB Up!Welcome to Health Status!")
    asked = ""

    def do_GET(self) -> None:
        type(self).asked = self.path
        status, body = self.answer
        self.send_response(status)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_args: object) -> None:
        pass


@pytest.fixture
def page(host: World) -> Iterator[Type[Page]]:
    class Own(Page):
        pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Own)
    Own.server = server
    threading.Thread(target=server.serve_forever, daemon=True).start()
    host.paths.agent_conf.parent.mkdir(parents=True, exist_ok=True)
    url = f"http://127.0.0.1:{server.server_address[1]}/page?x=1"
    host.paths.agent_conf.write_text(f"[health]\nurl={url}\n")
    yield Own
    server.shutdown()
    server.server_close()


def test_engine_up(page: Type[Page]) -> None:
    ran = run("--check-liveliness")
    assert ran.status == 0 and ran.out.count("\n") == 1
    assert page.asked == "/page?x=1"


def test_an_engine_with_an_ipv6_address(host: World) -> None:
    class Six(http.server.ThreadingHTTPServer):
        address_family = socket.AF_INET6

    class Own(Page):
        pass

    with Six(("::1", 0), Own) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        assert health_page.ask(f"http://[::1]:{server.server_address[1]}{HEALTH_PATH}", seconds=5) == ""
        server.shutdown()
    assert Own.asked == HEALTH_PATH


@pytest.mark.parametrize("answer", [(200, b"DB Down!"), (200, b""), (200, b"ok\nDB Up"), (503, b"DB Up!")])
def test_engine_down(page: Type[Page], answer: Tuple[int, bytes]) -> None:
    page.answer = answer
    ran = run("--check-liveliness")
    assert ran.status == 1 and ran.out.count("\n") == 1


def test_engine_unreachable(page: Type[Page]) -> None:
    page.server.server_close()
    assert run("--check-liveliness").status == 1


def test_the_status_by_the_broker_imports_neither_storage_nor_processes(world: World) -> None:
    """A monitoring system asks each minute on every host: these modules alone were a sixth of what it costs."""
    world.publish(record(1), record(2))
    newest = {"sd_uuid": "sd", "newest": "2024-01-02T00:00:00", "now": "2024-01-01T00:00:00"}
    world.paths.ovf_seen.write_text(json.dumps(newest))
    script = (
        "import sys\n"
        "from ovirt_he_ha.cli.main import main\n"
        "main(['--vm-status', '--json'])\n"
        "sys.stderr.write(' '.join(sys.modules))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30)
    assert "definition-older" in done.stdout
    loaded = set(done.stderr.split())
    assert "ovirt_he_ha.cli.status" in loaded
    assert not loaded & {"subprocess", "logging", "ovirt_he_ha.storage.io_worker", "ovirt_he_ha.config.journal"}


def test_an_address_in_the_place_of_the_engines_name(host: World, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: List[str] = []

    def ask(url: str, _ca_file: str) -> str:
        asked.append(url)
        return ""

    monkeypatch.setattr(health_page, "ask", ask)
    for written in ("2001:db8::7", "[2001:db8::7]", "192.0.2.7", "engine.test"):
        host.configure(fqdn=written)
        assert run("--check-liveliness").status == 0
    hosts = ("[2001:db8::7]", "[2001:db8::7]", "192.0.2.7", "engine.test")
    assert asked == [f"http://{each}{HEALTH_PATH}" for each in hosts]


def test_health_page_not_configured(host: World) -> None:
    host.configure(fqdn="")
    assert run("--check-liveliness").status == 2
    host.paths.hosted_engine_conf.write_bytes(b"\xff")
    assert run("--check-liveliness").status == 2


def test_a_page_that_never_ends_is_given_up(page: Type[Page], monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()

    def wait(self: Page) -> None:
        self.send_response(200)
        self.end_headers()
        release.wait(20)

    page.do_GET = wait  # type: ignore[method-assign]
    monkeypatch.setattr(health_page, "SECONDS", 0.3)
    try:
        assert run("--check-liveliness").status == 1
    finally:
        release.set()


@pytest.mark.parametrize("url", ["ftp://x/", "http://", "nonsense", "http://[::1", "http://127.0.0.1:99999/"])
def test_a_url_that_is_none_is_down_not_a_crash(url: str) -> None:
    assert health_page.ask(url, seconds=5)


@pytest.mark.parametrize("vm", list(Vm))
def test_every_vm_state_is_shown_as_it_was_published(world: World, vm: Vm) -> None:
    published = UP if vm is Vm.UP else EngineStatus(vm, Health.BAD, "unknown", "why")
    world.publish(record(1, engine=published))
    assert run("--vm-status", "--json").json["1"]["engine-status"]["vm"] == vm.value


# --- maintenance ------------------------------------------------------------------------------------------------------


def on_its_way(world: World, state: str, why: str = "", reason: str = "") -> None:
    extra = (("state", "EngineUp"), ("maintenance_state", state), ("maintenance_why", why))
    world.publish(record(1), record(2, engine=UP, extra=(*extra, ("maintenance_reason", reason)), extra_ok=True))


@pytest.mark.parametrize(
    ("state", "words"),
    [("preparing", "preparing: W"), ("error-in-preparing", "error in preparing: W; the VM keeps running there")],
)
def test_each_step_into_maintenance_is_shown_with_its_cause(world: World, state: str, words: str) -> None:
    on_its_way(world, state, "W", "new disks")
    found = run("--vm-status", "--json").json
    told = {"state": state, "why": "W", "reason": "new disks", "seen_global": False}
    assert found["2"]["maintenance-state"] == told
    assert found["1"]["maintenance-state"]["state"] == ""
    line = f": {words} (reason given: new disks)"
    out = run("--vm-status").out
    assert [each for each in out.splitlines() if each.startswith("Maintenance")] == ["Maintenance".ljust(35) + line]
    table = run("--vm-status", "--table").out
    assert f"Maintenance of host 2 (host2){line}" in table.splitlines()
    assert f" {words.split(':')[0]} " in table.splitlines()[2]


def test_a_host_in_maintenance_and_one_that_left_it(world: World) -> None:
    ended = (("state", "EngineDown"), ("maintenance_ended", "disks are in"))
    world.publish(record(1, maintenance=True), record(2, extra=ended, extra_ok=True))
    lines = [line.split(":", 1)[1] for line in run("--vm-status").out.splitlines() if line.startswith("Maintenance ")]
    assert lines == [" in maintenance", " ended: disks are in"]


def test_who_has_seen_the_clusters_maintenance_and_why_it_is_on(world: World) -> None:
    world.slots[0] = slot.encode_global(True)
    seen = ("state", "GlobalMaintenance")
    world.publish(
        record(1, extra=(seen, ("global_since", "1700000000"), ("global_reason", "old")), extra_ok=True),
        record(2, extra=(seen, ("global_since", "1700000500"), ("global_reason", "new switch")), extra_ok=True),
        record(3),
    )
    expected = "Hosts that have seen it: 1 (host1), 2 (host2); not yet: 3 (host3)"
    for words in (("--vm-status",), ("--vm-status", "--table"), ("--why",)):
        text = " ".join(run(*words).out.split())
        assert expected in text
        assert "Asked on host 2 (host2) at " in text and ": new switch" in text
    cluster = run("--why", "--json").json["maintenance"]
    told = {"asked_on": 2, "since": 1700000500, "reason": "new switch"}
    assert cluster == {"on": True, "seen": [1, 2], "not_seen": [3], **told}
    world.slots[0] = slot.encode_global(False)
    assert "have seen it" not in run("--vm-status").out
