"""Connecting a block domain with scripted iscsiadm, lvm and udevadm: every argument, the order, what is refused before
anything is activated, and that a failure leaves neither a session nor an active volume behind."""

import os
import stat
import time

import pytest

from ovirt_he_ha.config.text import ConfigError
from ovirt_he_ha.core.model import LeaseId
from ovirt_he_ha.storage import block_provider, connection, io_process
from ovirt_he_ha.storage.block_domain import load_record
from ovirt_he_ha.storage.command import CommandError, SecretOnCommandLine
from ovirt_he_ha.storage.domain_place import domain_of
from ovirt_he_ha.storage.refusal import Refusal
from ovirt_he_ha.storage.volumes import MIB
from tests.storage.block_world import HERE, TARGET, BlockWorld
from tests.storage.sanlock_records import lockspace, put
from tests.storage.scripted import refusal

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: block domains are connected by nobody else"),
    pytest.mark.system_python,  # sanlock's binding reads the lockspace
]


@pytest.fixture
def world(monkeypatch):
    monkeypatch.setattr(block_provider, "AGAIN", 0.05)
    made = BlockWorld()
    yield made
    made.close()


def connected(world):
    world.make_volumes()
    world.first_connection()
    return world.provider().connect(60)


# --- the whole way ------------------------------------------------------------------------------------------------


def test_login_activation_and_the_leases_place(world):
    found = connected(world)
    assert found.changed and found.notes == ()
    domain = found.domain
    volume = world.conf.vm_disk_vol_id
    assert domain.lease("", volume) == LeaseId(world.conf.sd_uuid, volume, f"{world.nodes}/leases", 104 * MIB)
    assert domain.sector_size() == 512 and domain.ids_path == f"{world.nodes}/ids"
    for name in world.names:
        facts = os.stat(world.nodes / name)
        assert (facts.st_uid, facts.st_gid, stat.S_IMODE(facts.st_mode)) == (36, 36, 0o660)
    world.script.done()


def test_the_broker_is_told_before_anything_is_activated(world):
    world.make_volumes()
    world.first_connection()
    why = Refusal(world.paths.storage_refusal).why
    noted = []
    note = Refusal.note
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Refusal, "note", lambda *words: (noted.append(world.active_nodes()), note(*words)))
        connection.connect(world.conf, world.paths, 60, commands=world.script.commands)
    assert noted == [[]] and why() == ""
    world.script.done()


def test_the_daemons_find_it_by_the_record_and_not_before(world):
    assert refusal(lambda: domain_of(world.conf, world.paths)).code == "not-connected"
    domain = connected(world).domain
    seen = domain_of(world.conf, world.paths)
    volume = world.conf.vm_disk_vol_id
    assert seen.lease("i", volume) == domain.lease("i", volume) and seen.ids_path == domain.ids_path


def test_the_second_time_only_the_sessions_are_looked_at(world):
    connected(world)
    world.sessions(HERE)
    world.interfaces()
    assert not world.provider().connect(60).changed
    world.script.done()


def test_only_our_volumes_and_others_are_named(world):
    world.make_volumes()
    world.sessions(HERE)
    world.interfaces()
    world.settle()
    world.found(extra=("somebody-elses-disk",))
    world.rule()
    world.activated()
    world.settle()
    (note,) = world.provider().connect(60).notes
    assert "somebody-elses-disk" in note
    world.script.done()


def test_disconnected(world):
    record = connected(world)
    record = world.record_path()
    world.active = set(world.names)
    world.found()
    world.deactivated()
    world.sessions(HERE)
    world.interfaces()
    world.node("--logout")
    world.node("-o", "delete", do=[["unlink", str(record)]])
    assert world.provider().disconnect(60)
    assert not world.paths.storage_record.exists() and world.active_nodes() == []
    world.script.done()
    world.report("pv", [], "pvs", "-a", "-o", "pv_name,vg_name,vg_uuid,pv_missing,pv_duplicate", "-S",
                 f"vg_name={world.conf.sd_uuid}")  # fmt: skip
    world.sessions()
    assert not world.provider().disconnect(60)
    world.script.done()


def test_a_volume_in_use_is_not_deactivated(world):
    connected(world)
    world.active = set(world.names)
    world.found()
    world.deactivated(do=[], status=5, err=f"  Logical volume {world.conf.sd_uuid}/ids in use.\n")
    assert refusal(lambda: world.provider().disconnect(60)).code == "busy"
    assert len(world.active_nodes()) == 6 and world.paths.storage_record.exists()
    world.script.done()


@pytest.mark.parametrize("how", ["another volume group", "a mount"])
def test_a_session_that_others_use_stays(world, how):
    connected(world)
    disk = world.root / "sys/class/block/sdb"
    device = world.root / "sys/class/iscsi_session/session1/device/target2:0:0/2:0:0:1/block/sdb"
    device.mkdir(parents=True)
    (disk / "holders").mkdir(parents=True)
    (disk / "dev").write_text("8:16\n")
    if how == "a mount":
        with open(world.table, "a") as file:
            file.write("99 22 8:16 / /mnt/x rw - ext4 /dev/sdb rw\n")
    else:
        (disk / "holders" / "dm-1").mkdir()
        map_ = world.root / "sys/class/block/dm-1"
        (map_ / "dm").mkdir(parents=True)
        (map_ / "dm" / "uuid").write_text("mpath-36001405abc\n")
        (map_ / "holders" / "dm-7").mkdir(parents=True)
        other = world.root / "sys/class/block/dm-7/dm"
        other.mkdir(parents=True)
        (other / "uuid").write_text("LVM-something\n")
    world.active = set(world.names)
    world.found()
    world.deactivated()
    world.sessions(HERE)
    world.interfaces()
    assert world.provider().disconnect(60)
    world.script.done()


# --- credentials ------------------------------------------------------------------------------------------------


SECRET = "pass-word-1234"


def test_chap_goes_into_the_record_and_nowhere_else(world):
    world.configure(domainType="iscsi", storage="192.0.2.1", iqn=TARGET, portal="1", user="bob", password=SECRET)
    world.make_volumes()
    record = world.first_connection()
    world.provider().connect(60)
    text = record.read_text()
    assert f"node.session.auth.password = {SECRET}\n" in text and "authmethod = CHAP\n" in text
    assert "node.session.auth.username = bob\n" in text and text.endswith("# END RECORD\n")
    assert stat.S_IMODE(record.stat().st_mode) == 0o600
    world.script.done()  # the script compared every argument of every call


def test_wrong_chap_is_named_and_nothing_is_left(world):
    world.configure(domainType="iscsi", storage="192.0.2.1", iqn=TARGET, portal="1", user="bob", password=SECRET)
    world.sessions()
    world.interfaces()
    record = world.refused_login(24, f"iSCSI login failed due to authorization failure, {SECRET}")
    world.taken_back(record)
    problem = refusal(lambda: world.provider().connect(60))
    assert problem.code == "authentication" and TARGET in problem.object
    assert "24" in str(problem) and SECRET not in str(problem) and not record.exists()
    world.script.done()


def test_a_secret_among_the_arguments_is_a_defect(world):
    with pytest.raises(SecretOnCommandLine) as caught:
        world.script.commands.run(["iscsiadm", "-v", SECRET], 5, secrets=(SECRET,))
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("user,password", [("bob", ""), ("", SECRET), ("bob", "ü"), ("a\tb", SECRET)])
def test_half_of_the_credentials(world, user, password):
    keys = {"user": user, "password": password}
    world.configure(domainType="iscsi", storage="192.0.2.1", iqn=TARGET, portal="1", **keys)
    world.sessions()
    world.interfaces()
    record = world.record_path()
    world.node("-o", "new", do=[["write", str(record), "# BEGIN RECORD 2.1.8\n# END RECORD\n"]])
    world.node("-o", "update", "-n", "node.startup", "-v", "manual")
    world.taken_back(record)
    with pytest.raises(ConfigError) as caught:
        world.provider().connect(60)
    assert SECRET not in str(caught.value)
    world.script.done()


# --- paths --------------------------------------------------------------------------------------------------------

TWO = "eth-a tcp,00:11:22:33:44:55,<empty>,ens1,<empty>\neth-b tcp,<empty>,<empty>,ens2,<empty>\n"


def test_several_portals_and_interfaces_but_the_blacklist(world):
    keys = {"storage": "192.0.2.1,192.0.2.2", "iqn": TARGET, "portal": "1", "port": "3260"}
    world.configure(domainType="iscsi", iscsi_paths_blacklist="eth-b<>192.0.2.1", **keys)
    world.make_volumes()
    world.sessions((TARGET, "192.0.2.1:3260,1", "eth-a"))
    world.interfaces(TWO + "default tcp,<empty>,<empty>,<empty>,<empty>\nx-i iser,<empty>,<empty>,ens3,<empty>\n")
    world.login(portal="192.0.2.2:3260,1", interface="eth-a")
    record = world.refused_login(8, "connection timed out", portal="192.0.2.2:3260,1", interface="eth-b")
    world.taken_back(record, portal="192.0.2.2:3260,1", interface="eth-b")
    world.settle()
    world.found()
    world.rule()
    world.activated()
    world.settle()
    found = world.provider().connect(60)
    (note,) = found.notes
    assert found.changed and "192.0.2.2" in note and "eth-b" in note
    world.script.done()


def test_targets_and_portals_belong_together_one_by_one(world):
    other = "iqn.2020-01.org.example:t2"
    world.configure(
        domainType="iscsi", storage="192.0.2.1,192.0.2.2", iqn=f"{TARGET},{other}", portal="1,2", port="3260,3260"
    )
    world.make_volumes()
    world.sessions(HERE)
    world.interfaces()
    world.login(portal="192.0.2.2:3260,2", target=other)
    world.settle()
    world.found()
    world.rule()
    world.activated()
    world.settle()
    world.provider().connect(60)
    world.script.done()


@pytest.mark.parametrize(
    "keys",
    [
        {"iqn": ""},
        {"iqn": "t1"},
        {"iqn": f"{TARGET},{TARGET}"},
        {"storage": "192.0.2.1;reboot"},
        {"storage": "a,b", "port": "1,2,3"},
        {"port": "x"},
        {"portal": "-1"},
        {"iscsi_paths_blacklist": "default<>192.0.2.1"},
    ],
)
def test_a_configuration_that_iscsiadm_could_misread(world, keys):
    world.configure(**{"domainType": "iscsi", "storage": "192.0.2.1", "iqn": TARGET, "portal": "1", **keys})
    with pytest.raises(ConfigError) as caught:
        world.provider()
    assert str(world.paths.hosted_engine_conf) in str(caught.value)
    world.script.done()


FAILED = [
    (8, "connection timed out", "no-server"),
    (4, "encountered connection failure", "no-server"),
    (11, "iSCSI PDU timed out", "silent"),
    (12, "iSCSI driver not found. Please make sure it is loaded, and retry the operation", "no-helper"),
    (20, "could not connect to iscsid", "no-helper"),
    (13, "no OS permissions", "not-root"),
    (6, "iSCSI DB error", "command"),
]


@pytest.mark.parametrize("status,said,code", FAILED)
def test_a_refused_login_has_its_reason(world, status, said, code):
    world.sessions()
    world.interfaces()
    record = world.refused_login(status, said)
    world.taken_back(record)
    problem = refusal(lambda: world.provider().connect(60))
    assert problem.code == code and said in str(problem) and not record.exists()
    world.script.done()


@pytest.mark.parametrize("offered", [[], ["iqn.2020-01.org.example:other"], [TARGET]])
def test_a_target_that_is_not_there_is_told_with_those_that_are(world, offered):
    world.sessions()
    world.interfaces()
    record = world.refused_login(19, "encountered non-retryable iSCSI login failure")
    listing = "".join(f"192.0.2.1:3260,1 {name}\n" for name in offered)
    world.script.expect("iscsiadm", "-m", "discovery", "-t", "sendtargets", "-p", "192.0.2.1:3260", "-o",
                        "nonpersistent", out=listing)  # fmt: skip
    world.taken_back(record)
    problem = refusal(lambda: world.provider().connect(60))
    assert problem.code == "no-target"
    assert all(name in str(problem) for name in offered)
    world.script.done()


# --- the volume group ------------------------------------------------------------------------------------------------


def undone(world, record):
    """Sessions that this call made."""
    world.node("--logout")
    world.node("-o", "delete", do=[["unlink", str(record)]])


def logged_in(world):
    world.make_volumes()
    world.sessions()
    world.interfaces()
    record = world.login()
    world.settle()
    return record


def test_a_lun_that_was_mapped_later_is_found_by_a_scan(world):
    world.make_volumes()
    world.sessions(HERE)
    world.interfaces()
    world.settle()
    world.found(devices=())
    world.script.expect("iscsiadm", "-m", "session", "--rescan", out="Rescanning session [sid: 1]\n")
    world.settle()
    world.found(devices=())
    world.settle()
    world.found()
    world.rule()
    world.activated()
    world.settle()
    assert world.provider().connect(60).changed
    world.script.done()


def test_no_lun_at_all(world, monkeypatch):
    monkeypatch.setattr(block_provider, "AGAIN", 100.0)  # no time for a third look
    record = logged_in(world)
    world.found(devices=())
    world.script.expect("iscsiadm", "-m", "session", "--rescan")
    world.settle()
    world.found(devices=())
    undone(world, record)
    problem = refusal(lambda: world.provider().connect(60))
    assert problem.code == "no-lun" and world.conf.sd_uuid in str(problem) and TARGET in str(problem)
    world.script.done()


GROUPS = [
    ({"duplicates": ("/dev/sdc",)}, "another-copy", "/dev/sdc"),
    ({"attributes": "wzx-n-"}, "in-use", "vgexport"),
    ({"attributes": "rz--n-"}, "read-only", "read-only"),
    ({"attributes": "wz-pn-", "missing": "1"}, "no-lun", "1"),
    ({"without": ("ids",)}, "no-volume", "/ids"),
]


@pytest.mark.parametrize("group,code,word", GROUPS)
def test_what_is_refused_before_anything_is_activated(world, group, code, word):
    record = logged_in(world)
    world.found(**group)
    undone(world, record)
    problem = refusal(lambda: world.provider().connect(60))
    assert problem.code == code and word in str(problem)
    assert not record.exists() and world.active_nodes() == [] and not world.paths.storage_record.exists()
    world.script.done()


def test_the_disk_is_not_there(world):
    record = logged_in(world)
    world.found(without=(world.conf.vm_disk_vol_id,))
    undone(world, record)
    assert world.conf.vm_disk_vol_id in refusal(lambda: world.provider().connect(60)).object
    world.script.done()


BROKEN = [
    ("slot", None, "lease"),
    ("MDT_BLOCK_SIZE", "520", "metadata"),
    ("MDT_ALIGNMENT", "1000", "metadata"),
]


@pytest.mark.parametrize("what,value,code", BROKEN)
def test_tags_that_say_nothing_of_use(world, what, value, code):
    world.slot = 4
    record = logged_in(world)
    if what == "slot":
        world.slot = value
    else:
        world.tags[what] = value
    world.found()
    world.rule()
    world.activated()
    world.settle()
    world.deactivated()
    undone(world, record)
    assert refusal(lambda: world.provider().connect(60)).code == code
    assert world.active_nodes() == [] and not world.paths.storage_record.exists()
    assert not (world.root / "run/udev/rules.d/99-ovirt-ha-storage.rules").exists()
    world.script.done()


def test_a_lun_in_use(world):
    record = logged_in(world)
    world.found()
    world.rule()
    said = "  device-mapper: reload ioctl on  (253:5) failed: Device or resource busy\n"
    world.activated(do=[], status=5, err=said)
    world.deactivated(do=[])
    undone(world, record)
    problem = refusal(lambda: world.provider().connect(60))
    assert problem.code == "in-use" and "Device or resource busy" in str(problem)
    world.script.done()


DISCOVERED = "# BEGIN RECORD 2.1.8\nnode.startup = automatic\nnode.session.auth.username = alice\n# END RECORD\n"


def found_before(world, status=0, said=""):
    """A login over a record that somebody else's discovery made."""
    record = world.record_path()
    record.parent.mkdir(parents=True, exist_ok=True)
    record.write_text(DISCOVERED)
    world.configure(domainType="iscsi", storage="192.0.2.1", iqn=TARGET, portal="1", user="bob", password=SECRET)
    world.sessions()
    world.interfaces()
    world.node("-o", "update", "-n", "node.startup", "-v", "manual")
    world.node("--login", status=status, err=said)
    return record


def test_a_record_of_somebody_elses_is_as_it_was_after_a_refused_login(world):
    record = found_before(world, 24, "iscsiadm: initiator reported error (24 - authorization failure)\n")
    world.node("--logout", status=21, err="iscsiadm: No matching sessions found\n")
    assert refusal(lambda: world.provider().connect(60)).code == "authentication"
    assert record.read_text() == DISCOVERED and stat.S_IMODE(record.stat().st_mode) == 0o600
    world.script.done()


@pytest.mark.parametrize("status", [0, 15])
def test_only_what_this_call_made_is_undone(world, status):
    """15: the session was there, by another call or by the host's own start."""
    record = found_before(world, status, "iscsiadm: default: 1 session requested, but 1 already present.\n")
    world.make_volumes()
    put(world.away / "ids", lockspace("11111111-1111-1111-1111-111111111111"))
    world.settle()
    world.found()
    world.rule()
    world.activated()
    world.settle()
    world.deactivated()
    if status == 0:
        world.node("--logout")
    assert refusal(lambda: world.provider().connect(60)).code == "lockspace"
    assert record.read_text() == DISCOVERED
    world.script.done()


def test_nodes_that_udev_never_makes(world):
    record = logged_in(world)
    world.found()
    world.rule()
    world.activated(do=[])
    world.settle()
    world.deactivated(do=[])
    undone(world, record)
    assert refusal(lambda: world.provider().connect(60)).code == "no-volume"
    world.script.done()


@pytest.mark.parametrize(
    "out,err,status", [("", "", 0), ("{}", "", 0), ("  no json\n", "", 0), ("", "  Locking failed.\n", 5)]
)
def test_a_report_that_is_none(world, out, err, status):
    record = logged_in(world)
    fields = "pv_name,vg_name,vg_uuid,pv_missing,pv_duplicate"
    report = ("--reportformat", "json", "--units", "b", "--nosuffix")
    world.lvm(
        "pvs", *report, "-a", "-o", fields, "-S", f"vg_name={world.conf.sd_uuid}", out=out, err=err, status=status
    )
    undone(world, record)
    with pytest.raises(CommandError):
        world.provider().connect(60)
    world.script.done()


def test_another_lockspace_on_the_right_group(world):
    record = logged_in(world)
    put(world.away / "ids", lockspace("11111111-1111-1111-1111-111111111111"))
    world.found()
    world.rule()
    world.activated()
    world.settle()
    world.deactivated()
    undone(world, record)
    assert refusal(lambda: world.provider().connect(60)).code == "lockspace"
    assert world.active_nodes() == []
    world.script.done()


# --- copies ---------------------------------------------------------------------------------------------------------


def lun(world, name, wwid):
    node = world.root / "sys/class/block" / name / "device"
    node.mkdir(parents=True, exist_ok=True)
    (node / "wwid").write_text(wwid + "\n")


def test_a_cloned_lun_is_noticed_and_can_be_accepted(world):
    lun(world, "mpa", "naa.6001405aaaa")
    connected(world)
    for path in (world.paths.storage_record, world.root / "run/udev/rules.d/99-ovirt-ha-storage.rules"):
        path.unlink()  # the host was started anew
    for name in world.names:
        os.rename(world.nodes / name, world.away / name)
    lun(world, "mpa", "naa.6001405bbbb")
    for accept in (False, True):
        world.sessions(HERE)
        world.interfaces()
        world.settle()
        world.found()
        world.rule()
        world.activated()
        world.settle()
        if accept:
            assert world.provider(accept=True).connect(60).changed
        else:
            world.deactivated()
            problem = refusal(lambda: world.provider().connect(60))
            assert problem.code == "another-copy" and "6001405bbbb" in str(problem)
    world.script.done()


def test_an_older_state_is_noticed_without_lvm(world):
    world.make_volumes({2: 7})
    world.first_connection()
    world.provider().connect(60)
    put(world.nodes / "ids", lockspace(world.conf.sd_uuid, {2: 3}))
    world.sessions(HERE)
    world.interfaces()
    assert refusal(lambda: world.provider().connect(60)).code == "older-copy"
    assert len(world.active_nodes()) == 6  # they were active before
    world.script.done()


# --- Fibre Channel, vdsm, hanging ----------------------------------------------------------------------------------


def port(world, number, state):
    place = world.root / "sys/class/fc_host" / f"host{number}"
    place.mkdir(parents=True)
    (place / "port_name").write_text(f"0x10000090fa{number:06d}\n")
    (place / "port_state").write_text(state + "\n")


def test_fibre_channel(world):
    world.configure(domainType="fc", storage="")
    world.make_volumes()
    port(world, 1, "Online")
    port(world, 2, "Linkdown")
    scans = [world.root / f"sys/class/scsi_host/host{number}/scan" for number in (1, 2)]
    world.settle()
    world.found(devices=())
    for scan in scans:
        world.script.expect("sh", "-c", 'echo "- - -" >"$0"', scan)
    world.settle()
    world.found()
    world.rule()
    world.activated()
    world.settle()
    found = world.provider().connect(60)
    assert found.changed and len(found.notes) == 1 and "Linkdown" in found.notes[0]
    assert not world.provider().connect(60).changed
    world.script.done()


@pytest.mark.parametrize("states", [[], ["Linkdown"]])
def test_fibre_channel_without_a_fabric(world, states):
    world.configure(domainType="fc", storage="")
    for number, state in enumerate(states):
        port(world, number, state)
    problem = refusal(lambda: world.provider().connect(60))
    assert problem.code == "no-target" and all(state in str(problem) for state in states)


def test_where_vdsm_runs_nothing_is_changed(world):
    process = world.root / "proc/99"
    process.mkdir()
    (process / "cmdline").write_bytes(b"/usr/bin/python3\0/usr/share/vdsm/vdsmd\0")
    world.make_volumes()
    world.settle()
    world.found()
    assert refusal(lambda: world.provider().connect(60)).code == "not-connected"
    world.script.done()
    world.active = set(world.names)
    for name in world.names:
        os.rename(world.away / name, world.nodes / name)
        os.chown(world.nodes / name, 36, 36)
    world.settle()
    world.found()
    provider = world.provider()
    assert provider.name == "vdsm" and not provider.connect(60).changed and not provider.disconnect(60)
    assert load_record(world.paths.storage_record, world.conf.sd_uuid).slots == {world.conf.vm_disk_vol_id: 4}
    world.script.done()


def test_a_lun_that_does_not_answer(world, monkeypatch):
    connected(world)
    program = world.root / "hanging_io.py"
    program.write_text("import signal\nwhile True:\n    signal.pause()\n")
    program.chmod(0o644)
    monkeypatch.setattr(io_process, "__file__", str(program))
    world.sessions(HERE)
    world.interfaces()
    begun = time.monotonic()
    assert refusal(lambda: world.provider().connect(1)).code == "silent"
    assert time.monotonic() - begun < 5 and len(world.active_nodes()) == 6
    world.script.done()


def test_without_root_nothing_is_called(world, monkeypatch):
    monkeypatch.setattr(connection, "daemons_user", lambda: None)
    provider = world.provider()
    assert refusal(lambda: provider.connect(5)).code == "not-root"
    assert refusal(lambda: provider.disconnect(5)).code == "not-root"
    world.script.done()
