"""A host in a directory whose ``iscsiadm``, ``lvm`` and ``udevadm`` are scripts that answer in the real tools' words
(recorded from open-iscsi 2.1.8 and lvm2 2.03.16); device nodes are files."""

import json
import os

from ovirt_he_ha.storage.volume_group import CONFIGURATION
from ovirt_he_ha.storage.volumes import MIB, SCANNED
from tests.storage.mounted_world import MountedWorld
from tests.storage.sanlock_records import RESOURCE, lockspace, put, sector

TARGET = "iqn.2020-01.org.example:t1"
HERE = (TARGET, "192.0.2.1:3260,1", "default")
UUID = "VWxDsw-Xbz3-JsnE-r0SH-M7p2-8WB9-WaM2cp"
REPORT = ("--reportformat", "json", "--units", "b", "--nosuffix")
PV_FIELDS = "pv_name,vg_name,vg_uuid,pv_missing,pv_duplicate"
LV_FIELDS = "vg_uuid,vg_attr,vg_tags,vg_missing_pv_count,lv_name,lv_size,lv_active,lv_tags"
IFACES = "default tcp,<empty>,<empty>,<empty>,<empty>\niser iser,<empty>,<empty>,<empty>,<empty>\n"
SLOT = 4
RECORD = "# BEGIN RECORD 2.1.8\nnode.name = {target}\nnode.session.auth.chap_algs = MD5\n# END RECORD\n"


def session_text(*sessions):
    """``-P 1``; each session: target, portal, interface."""
    text = ""
    for number, (target, portal, interface) in enumerate(sessions, 1):
        text += (
            f"Target: {target} (non-flash)\n\tCurrent Portal: {portal}\n\tPersistent Portal: {portal}\n"
            "\t\t**********\n\t\tInterface:\n\t\t**********\n"
            f"\t\tIface Name: {interface}\n\t\tIface Transport: tcp\n\t\tIface Initiatorname: iqn.1994-05.com.x:abc\n"
            "\t\tIface IPaddress: 192.0.2.10\n\t\tIface HWaddress: default\n\t\tIface Netdev: default\n"
            f"\t\tSID: {number}\n\t\tiSCSI Connection State: LOGGED IN\n\t\tiSCSI Session State: LOGGED_IN\n"
            "\t\tInternal iscsid Session State: NO CHANGE\n"
        )
    return text


class BlockWorld(MountedWorld):
    def __init__(self, **keys):
        super().__init__(**{"domainType": "iscsi", "storage": "192.0.2.1", "iqn": TARGET, "portal": "1", **keys})
        self.nodes = self.root / "dev" / self.conf.sd_uuid
        self.away = self.root / "inactive"  # what the nodes show once they are active
        self.tags = {"MDT_BLOCK_SIZE": "512", "MDT_ALIGNMENT": str(MIB)}
        self.active = set()
        self.slot = SLOT

    @property
    def names(self):
        conf = self.conf
        return ["ids", "leases", conf.metadata_volume_uuid, conf.lockspace_volume_uuid, conf.conf_volume_uuid,
                conf.vm_disk_vol_id]  # fmt: skip

    def make_volumes(self, generations=None):
        self.away.mkdir()
        self.nodes.mkdir(parents=True)
        for name in self.names:
            with open(self.away / name, "wb") as file:
                file.truncate(256 * MIB if name == "leases" else max(8 * MIB, SCANNED))
        put(self.away / "ids", lockspace(self.conf.sd_uuid, generations))
        key = self.conf.vm_disk_vol_id
        put(self.away / "leases", sector(RESOURCE, self.conf.sd_uuid, key), (100 + self.slot) * MIB)

    # --- steps of the script ----------------------------------------------------------------------------------------

    def sessions(self, *sessions):
        if sessions:
            self.script.expect("iscsiadm", "-m", "session", "-P", "1", out=session_text(*sessions))
        else:
            self.script.expect("iscsiadm", "-m", "session", "-P", "1", status=21, err="iscsiadm: No active sessions.\n")

    def interfaces(self, text=IFACES):
        self.script.expect("iscsiadm", "-m", "iface", out=text)

    def node(self, *words, portal="192.0.2.1:3260,1", interface="default", target=TARGET, **step):
        self.script.expect("iscsiadm", "-m", "node", "-T", target, "-p", portal, "-I", interface, *words, **step)

    def record_path(self, portal="192.0.2.1,3260,1", interface="default", target=TARGET):
        return self.root / "var/lib/iscsi/nodes" / target / portal / interface

    def login(self, portal="192.0.2.1:3260,1", interface="default", status=0, err="", target=TARGET):
        record = self.record_path(portal.replace(":3260", ",3260"), interface, target)
        made = [["write", str(record), RECORD.format(target=target)]]
        where = {"portal": portal, "interface": interface, "target": target}
        self.node("-o", "new", do=made, out="New iSCSI node added\n", **where)
        self.node("-o", "update", "-n", "node.startup", "-v", "manual", **where)
        self.node("--login", status=status, err=err, **where)
        return record

    def refused_login(self, status, said, **where):
        address = where.get("portal", "192.0.2.1:3260,1").rsplit(",", 1)[0].replace(":", ",")
        text = (
            f"iscsiadm: Could not login to [iface: default, target: {TARGET}, portal: {address}].\n"
            f"iscsiadm: initiator reported error ({status} - {said})\niscsiadm: Could not log into all portals\n"
        )
        return self.login(status=status, err=text, **where)

    def taken_back(self, record, **where):
        self.node("--logout", status=21, err="iscsiadm: No matching sessions found\n", **where)
        self.node("-o", "delete", do=[["unlink", str(record)]], **where)

    def settle(self, seconds=19):
        self.script.expect("udevadm", "settle", f"--timeout={seconds}")

    def lvm(self, *words, **step):
        self.script.expect("lvm", words[0], "--config", CONFIGURATION, *words[1:], **step)

    def report(self, kind, rows, *words, **step):
        body = ",\n".join("                  " + json.dumps(row) for row in rows)
        text = '  {\n      "report": [\n          {\n              "%s": [\n%s\n              ]\n'
        text += "          }\n      ]\n  }\n"
        self.lvm(words[0], *REPORT, *words[1:], out=text % (kind, body), **step)

    def found(
        self,
        devices=("/dev/mapper/mpa",),
        duplicates=(),
        attributes="wz--n-",
        missing="0",
        without=(),
        extra=(),
        more=(),
        sizes=(),
        lv_tags=(),
    ):
        """Both reports of a look at the group."""
        sd = self.conf.sd_uuid
        rows = [
            {"pv_name": name, "vg_name": sd, "vg_uuid": UUID, "pv_missing": "", "pv_duplicate": again}
            for names, again in ((devices, ""), (duplicates, "duplicate"))
            for name in names
        ]
        self.report("pv", rows, "pvs", "-a", "-o", PV_FIELDS, "-S", f"vg_name={sd}")
        if not rows:
            return
        tags = ",".join(f"{name}={value}" for name, value in self.tags.items()) + ",RHAT_storage_domain"
        volumes = []
        for name in [*(name for name in self.names if name not in without), *extra, *more]:
            mine = f"IU_{self.conf.vm_disk_id},MD_{self.slot},PU_00000000-0000-0000-0000-000000000000"
            volumes.append(
                {
                    "vg_uuid": UUID,
                    "vg_attr": attributes,
                    "vg_tags": tags,
                    "vg_missing_pv_count": missing,
                    "lv_name": name,
                    "lv_size": dict(sizes).get(name, "134217728"),
                    "lv_active": "active" if name in self.active or name in extra else "",
                    "lv_tags": dict(lv_tags).get(
                        name, mine if name == self.conf.vm_disk_vol_id and self.slot is not None else ""
                    ),
                }
            )
        self.report("lv", volumes, "lvs", "-o", LV_FIELDS, sd)

    def space(self, free=100 * 128 * MIB, extent=128 * MIB):
        rows = [{"vg_free": str(free), "vg_extent_size": str(extent)}]
        self.report("vg", rows, "vgs", "-o", "vg_free,vg_extent_size", self.conf.sd_uuid)

    def lvcreate(self, name, size, tags, **step):
        """lvm2 2.03.16 says this on standard error, the last line on standard output."""
        marks = [word for tag in tags for word in ("--addtag", tag)]
        words = ["--yes", "--type", "linear", "--activate", "y", "--zero", "n", "--wipesignatures", "n"]
        said = {
            "out": f'  Logical volume "{name}" created.\n',
            "err": f"  WARNING: Logical volume {self.conf.sd_uuid}/{name} not zeroed.\n"
            "  WARNING: This metadata update is NOT backed up.\n",
        }
        argv = ["--size", f"{size}b", *marks, "--name", name, self.conf.sd_uuid]
        self.lvm("lvcreate", *words, *argv, **{**said, **step})

    def lvremove(self, name, **step):
        self.lvm("lvremove", "--yes", f"{self.conf.sd_uuid}/{name}", **step)

    def rule(self):
        self.script.expect("udevadm", "control", "--reload")

    def activated(self, **step):
        targets = [f"{self.conf.sd_uuid}/{name}" for name in self.names]
        self.lvm("lvchange", "-ay", *targets, **{"do": [["move", str(self.away), str(self.nodes)]], **step})

    def deactivated(self, **step):
        targets = [f"{self.conf.sd_uuid}/{name}" for name in self.names]
        self.lvm("lvchange", "-an", *targets, **{"do": [["move", str(self.nodes), str(self.away)]], **step})

    def first_connection(self):
        """No session, no record: everything is done."""
        self.sessions()
        self.interfaces()
        record = self.login()
        self.settle()
        self.found()
        self.rule()
        self.activated()
        self.settle()
        return record

    def active_nodes(self):
        return sorted(os.listdir(self.nodes)) if self.nodes.exists() else []
