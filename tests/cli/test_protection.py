"""hosted-engine --protection: verdict, exit status, layout, and what this host looks at itself."""

import base64
import re
import time
from contextlib import redirect_stdout
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any, Dict, Iterator

import pytest

from ovirt_he_ha.agent import definition_source
from ovirt_he_ha.cli.main import main
from ovirt_he_ha.cli.protection import ARCHIVE
from ovirt_he_ha.config.files import load_hosted_engine_conf
from ovirt_he_ha.core import slot
from ovirt_he_ha.core.model import HostLease, Reading
from ovirt_he_ha.core.situation import lease_text
from ovirt_he_ha.storage.archive import build_archive
from ovirt_he_ha.storage.local import LocalDomain
from tests.cli.world import UP, VMID, World, record, run

LINES = {
    "mig": "1",
    "mig.uri": "192.0.2.2",
    "cpu": "same",
    "version": "1",
    "def": "ok",
    "lockmgr": "sanlock",
    "wd": "1",
    "io": "10/60",
    "conf": "aaaaaa/bbbbbb/cccccc",
    "net2": "1",
    "vers": "1/9.0.0/3.8.5",
    "wall": "1000",
}
DOMAIN = """<domain type='qemu'><name>HostedEngine</name><uuid>{vmid}</uuid>
<on_poweroff>destroy</on_poweroff><on_crash>destroy</on_crash><on_lockfailure>poweroff</on_lockfailure>
<devices>{lease}<disk type='file' device='disk'><driver name='qemu' type='{form}' cache='none'/>
<source file='{disk}'/><target dev='vda'/></disk></devices></domain>"""
LEASE = """<lease><lockspace>{0.lockspace}</lockspace><key>{0.key}</key>
<target path='{0.path}' offset='{0.offset}'/></lease>"""


class Cluster:
    """Three whole hosts as host 1 finds them, the VM there."""

    def __init__(self, world: World) -> None:
        self.world = world
        conf = load_hosted_engine_conf(world.paths.hosted_engine_conf)
        self.domain = LocalDomain(conf.storage, conf.sd_uuid)
        self.lease = self.domain.lease(conf.vm_disk_id, conf.vm_disk_vol_id)
        self.archive = Path(self.domain.volume_path(conf.conf_image_uuid, conf.conf_volume_uuid))
        self.define()
        world.paths.qemu_conf.parent.mkdir(parents=True)
        self.lock_manager('lock_manager = "sanlock"\n')
        for host_id in (1, 2, 3):
            self.publish(host_id)
        world.engine(UP, pid=4711, lease_defined=True)

    def define(self, lease: bool = True, form: str = "raw") -> None:
        disk = self.lease.path[: -len(".lease")]
        shown = LEASE.format(self.lease) if lease else ""
        xml = DOMAIN.format(vmid=VMID, lease=shown, form=form, disk=disk)
        text = f"vmId={VMID}\nmemSize=3200\nxmlBase64={base64.b64encode(xml.encode()).decode()}\n"
        members = {name: b"x=y\n" for name in ("version", "fhanswers.conf", "hosted-engine.conf", "broker.conf")}
        self.archive.parent.mkdir(parents=True, exist_ok=True)
        self.archive.write_bytes(build_archive({**members, "vm.conf": text.encode()}))
        self.used(ARCHIVE)

    def used(self, origin: str) -> None:
        """The effective vm.conf as the agent keeps it."""
        self.world.paths.vm_conf.write_text(f"# From {origin}, 2024-05-31T14:00:00Z\n\nvmId={VMID}\nmemSize=3200\n")

    def lock_manager(self, text: str) -> None:
        self.world.paths.qemu_conf.write_text(text)

    def publish(self, host_id: int, lines: Dict[str, str] = {}, **changes: Any) -> None:  # noqa: B006 - not changed
        said = {
            **LINES,
            "lease": lease_text(self.lease),
            **({"fence.state": "guarded"} if host_id == 1 else {}),
            **lines,
        }
        extra = tuple((key, value) for key, value in said.items() if value)
        values: Dict[str, Any] = {"extra": extra, "extra_ok": True, "engine": UP if host_id == 1 else None, **changes}
        found = record(host_id, **values)
        self.world.slots[host_id] = slot.encode(found, time.time() - 1000.0)


@pytest.fixture
def cluster(world: World) -> Iterator[Cluster]:
    yield Cluster(world)


def found(answer: Dict[str, Any]) -> Dict[str, Any]:
    return {one["code"]: (one["level"], one["hosts"]) for one in answer["findings"]}


def test_a_whole_cluster_is_protected_with_exit_0(cluster: Cluster) -> None:
    ran = run("--protection", "--json")
    assert (ran.status, ran.err, ran.out.count("\n")) == (0, "", 1)
    answer = ran.json
    assert answer["findings"] == []
    assert (answer["schema_version"], answer["level"], answer["vm-host"], answer["spares"]) == (
        1,
        "protected",
        1,
        [2, 3],
    )
    assert (answer["deployed"], answer["eligible"], answer["local-host"]) == (3, 3, 1)
    one = answer["hosts"][0]
    assert (one["role"], one["watchdog"], one["lock-manager"], one["definition"]) == ("vm", True, "sanlock", "ok")
    assert (one["audit"], one["lockspace"], one["io-timeout"], one["watchdog-timeout"]) == ("guarded", "live", 10, 60)
    assert one["versions"] == {"agent": "1", "broker": "1", "libvirt": "9.0.0", "sanlock": "3.8.5"}
    assert abs(one["clock-offset"]) <= 5
    recovery = {each["fault"]: each["seconds"] for each in answer["recovery"]}
    assert (recovery["host-loss"], recovery["vm-crash"], recovery["network-loss"]) == (162.0, 10.0, 60.0)
    assert recovery["planned-move"] == 220.0, "the VM's memory is that of its definition"


def test_the_first_line_is_the_verdict_and_every_host_has_a_row(cluster: Cluster) -> None:
    ran = run("--protection")
    lines = ran.out.splitlines()
    assert ran.status == 0
    assert lines[0].startswith("PROTECTED")
    assert [line.split()[:3] for line in lines[3:6]] == [
        ["1", "host1", "vm"],
        ["2", "host2", "spare"],
        ["3", "host3", "spare"],
    ]
    assert any("loses power" in line and "162 s" in line for line in lines)
    assert "\x1b" not in ran.out


def test_the_lease_is_missing_at_once_though_every_agent_still_says_ok(cluster: Cluster) -> None:
    cluster.define(lease=False)
    ran = run("--protection", "--json")
    assert ran.status == 4
    missing = [(one["level"], one["hosts"]) for one in ran.json["findings"] if one["code"] == "lease-missing"]
    assert missing == [("unprotected", [1]), ("degraded", [2, 3])]
    assert [host["definition"] for host in ran.json["hosts"]] == ["no-lease"] * 3
    assert {each["fault"]: each["how"] for each in ran.json["recovery"]}["vm-crash"] == "not-recovered"


def test_a_definition_from_an_ovf_store_is_the_agents_to_judge(cluster: Cluster) -> None:
    """They go on with the last good one: the archive is not what is started then."""
    cluster.define(lease=False)
    cluster.used("/srv/images/a/b")
    ran = run("--protection", "--json")
    assert (ran.status, found(ran.json)) == (0, {})
    assert [each["seconds"] for each in ran.json["recovery"] if each["fault"] == "planned-move"] == [220.0]


def test_the_agent_and_the_command_have_one_word_for_the_archive() -> None:
    assert definition_source.ARCHIVE == ARCHIVE


def test_a_disk_that_is_not_raw(cluster: Cluster) -> None:
    cluster.define(form="qcow2")
    answer = run("--protection", "--json").json
    assert answer["level"] == "unprotected"
    assert answer["findings"][0]["values"] == {"problem": "qcow2"}


def test_a_definition_that_cannot_be_read_now_is_as_the_agents_said(cluster: Cluster) -> None:
    cluster.archive.unlink()
    assert run("--protection").status == 0
    cluster.publish(2, {"def": "qcow2"})
    assert found(run("--protection", "--json").json) == {"definition-refused": ("degraded", [2])}


def test_an_own_lease_that_differs_says_nothing_of_the_others_definition(cluster: Cluster) -> None:
    """This host alone computes another lease: the definition is refused here, not there."""
    cluster.publish(1, {"lease": "sd:vol:/mine:0"})
    answer = run("--protection", "--json").json
    assert [host["definition"] for host in answer["hosts"]] == ["ok"] * 3
    assert found(answer)["lease-differs"] == ("unprotected", [2, 3])


@pytest.mark.parametrize("text", ['lock_manager = "lockd"\n', '# lock_manager = "sanlock"\n', ""])
def test_this_hosts_lock_manager_is_looked_at_now(cluster: Cluster, text: str) -> None:
    cluster.lock_manager(text)
    ran = run("--protection", "--json")
    assert ran.status == 4
    assert found(ran.json) == {"lock-manager-off": ("unprotected", [1])}


def test_this_hosts_watchdog_and_timeouts_are_the_brokers(cluster: Cluster) -> None:
    cluster.world.leases(watchdog_armed=False)
    assert found(run("--protection", "--json").json)["watchdog-off"] == ("unprotected", [1])
    cluster.world.leases(watchdog_armed=True, io_timeout=5)
    assert found(run("--protection", "--json").json) == {"timeouts-differ": ("degraded", [2, 3])}


def test_a_running_copy_without_the_lease(cluster: Cluster) -> None:
    cluster.world.engine(UP, pid=4711, lease_defined=False)
    assert found(run("--protection", "--json").json) == {"running-without-lease": ("unprotected", [1])}


def test_a_spare_that_goes_into_maintenance_or_away(cluster: Cluster) -> None:
    cluster.publish(3, maintenance=True, score=0)
    ran = run("--protection", "--json")
    assert (ran.status, found(ran.json)) == (3, {"host-maintenance": ("degraded", [3])})
    cluster.world.alive = [1, 2]
    ran = run("--protection", "--json")
    assert found(ran.json) == {"host-dead": ("degraded", [3])}
    cluster.world.alive = [1]
    ran = run("--protection")
    assert ran.status == 4
    assert ran.out.startswith("UNPROTECTED")
    assert "No other host can take the VM over" in ran.out


def test_what_only_this_hosts_agent_follows_comes_from_its_slot(cluster: Cluster) -> None:
    cluster.publish(1, {"prot": "degraded", "prot.why": "clocks,host-silent:2.3,x"})
    assert found(run("--protection", "--json").json) == {
        "host-silent": ("unknown", [2, 3]),
        "no-spare": ("unknown", []),
    }


def test_an_upstream_peer_is_not_green(cluster: Cluster) -> None:
    cluster.publish(2, extra=(), extra_ok=False)
    ran = run("--protection", "--json")
    assert (ran.status, found(ran.json)) == (3, {"host-foreign": ("unknown", [2])})
    assert ran.json["hosts"][1]["watchdog"] is None and ran.json["hosts"][1]["tells"] is False
    assert "Not known:" in run("--protection").out


def test_slots_that_are_old_are_no_proof(cluster: Cluster) -> None:
    cluster.world.facts = replace(cluster.world.facts, slots_age=40.0)
    assert found(run("--protection", "--json").json) == {"view-old": ("unknown", [1])}
    cluster.world.facts = replace(cluster.world.facts, slots_age=61.0)
    assert "global-flag-unknown" in found(run("--protection", "--json").json)


def test_sanlocks_list_counts_while_it_is_fresh(cluster: Cluster) -> None:
    flags = {1: HostLease.LIVE, 2: HostLease.LIVE}
    cluster.world.leases(hosts=Reading.of(flags, 2.0))
    assert found(run("--protection", "--json").json) == {"not-in-lockspace": ("degraded", [3])}
    cluster.world.leases(hosts=Reading.of(flags, 26.0))
    assert found(run("--protection", "--json").json) == {}


def test_global_maintenance_is_unprotected(cluster: Cluster) -> None:
    cluster.world.slots[0] = slot.encode_global(True)
    ran = run("--protection")
    assert ran.status == 4
    assert "`hosted-engine --set-maintenance --mode=none` ends it" in ran.out
    assert len(re.findall("not recovered: global maintenance is on", ran.out)) == 9


def test_a_host_that_never_published_is_missing(cluster: Cluster) -> None:
    del cluster.world.slots[1]
    answer = run("--protection", "--json").json
    assert (answer["deployed"], answer["vm-host"]) == (3, None)
    assert found(answer)["host-dead"] == ("degraded", [1])


class Terminal(StringIO):
    def isatty(self) -> bool:
        return True


def test_red_on_a_terminal_unless_it_is_not_wanted(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster.world.slots[0] = slot.encode_global(True)
    monkeypatch.setenv("TERM", "xterm")
    for unwanted, begins in (({}, "\x1b[1;31mUNPROTECTED"), ({"NO_COLOR": "1"}, "UNPROTECTED")):
        monkeypatch.delenv("NO_COLOR", raising=False)
        for name, value in unwanted.items():
            monkeypatch.setenv(name, value)
        with redirect_stdout(Terminal()) as out:
            assert main(["--protection"]) == 4
        assert out.getvalue().startswith(begins)
        assert ("\x1b[1;31m  Global maintenance: nobody" in out.getvalue()) is not bool(unwanted)


def test_without_a_broker_it_is_an_error_and_no_verdict(host: World) -> None:
    ran = run("--protection", "--json")
    assert (ran.status, list(ran.json)) == (1, ["error"])
    assert run("--protection").status == 1


def test_not_deployed(host: World) -> None:
    host.configure(vmid="")
    assert run("--protection", "--json").json["error"]["code"] == "not-deployed"


def test_surplus_words_are_refused(cluster: Cluster) -> None:
    assert run("--protection", "--table").status == 1
