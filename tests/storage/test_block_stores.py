"""OVF_STORE volumes of a block domain: found by the places that tags name, in both layouts of descriptions, with a
scripted lvm; device nodes are files."""

import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovirt_he_ha.storage import block_provider
from ovirt_he_ha.storage.block_domain import BlockDomain, load_record
from ovirt_he_ha.storage.block_layout import description_offsets, description_place
from ovirt_he_ha.storage.block_stores import search
from ovirt_he_ha.storage.domain_files import FilesHere
from ovirt_he_ha.storage.io_process import VolumeLook
from ovirt_he_ha.storage.ovf_store import OvfStoreError, read_ovf
from ovirt_he_ha.storage.volume_group import Group, LogicalVolume
from ovirt_he_ha.storage.volumes import MIB
from tests.storage.block_world import SLOT, TARGET, BlockWorld
from tests.storage.engine_ovf import meta, store
from tests.storage.sanlock_records import put

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: block domains are connected by nobody else")
bindings = pytest.mark.system_python  # sanlock's binding reads the lockspace
HERE = (TARGET, "192.0.2.1:3260,1", "default")
ONE, TWO, DISK = "store-one", "store-two", "somebodys-disk"
SLOTS = {ONE: 9, TWO: 200, DISK: 10}
DISK_TEXT = b'DESCRIPTION={"DiskAlias":"OVF_STORE","DiskDescription":"OVF_STORE"}\nEOF\n'
VM = "5a1de5b1-21b5-4c65-9a5e-000000000001"


class World(BlockWorld):
    """A management application has written two OVF_STOREs; the second is newer."""

    def __init__(self, version="5"):
        super().__init__()
        self.make_volumes()
        self.tags["MDT_VERSION"] = version
        self.new = version == "5"
        self.extra_away = self.root / "descriptions"
        self.stores_away = self.root / "stores"
        for directory in (self.extra_away, self.stores_away):
            directory.mkdir()
        with open(self.extra_away / "metadata", "wb") as file:
            file.truncate(16 * MIB)
        self.describe(ONE, "Tue Nov 10 14:00:00 UTC 2026", directory=self.extra_away)
        self.describe(TWO, "Tue Nov 10 15:00:00 UTC 2026", directory=self.extra_away)
        put(self.extra_away / "metadata", DISK_TEXT, self.place(DISK))
        for name in (ONE, TWO):
            archive = store({f"{VM}.ovf": f"<ovf of {name}/>".encode()})
            # Behind what was written now lies what was longer before.
            rest = store({f"{VM}.ovf": b"<older/>"})
            with open(self.stores_away / name, "wb") as file:
                file.write(archive + rest)
                file.truncate(MIB)

    def place(self, name):
        return MIB + SLOTS[name] * 8192 if self.new else SLOTS[name] * 512

    def describe(self, name, date, updated=True, directory=None, size=None):
        archive = store({f"{VM}.ovf": f"<ovf of {name}/>".encode()})
        text = meta(len(archive) if size is None else size, date, updated)
        put((directory or self.nodes) / "metadata", text.ljust(8192 if self.new else 512, b"\0"), self.place(name))

    def look(self, active=()):
        names = ("metadata", ONE, TWO, DISK)
        self.active |= set(active)
        tags = {name: f"IU_x,MD_{number},PU_0" for name, number in SLOTS.items()}
        self.found(more=names, lv_tags=tags)

    def switched_on(self, *names, source=None, **step):
        targets = [f"{self.conf.sd_uuid}/{name}" for name in names]
        act = [["move", str(source), str(self.nodes)]]
        self.lvm("lvchange", "-ay", *targets, **{"do": act, **step})
        self.settle()

    def reached(self):
        self.sessions(HERE)
        self.interfaces()
        self.settle()
        self.look()
        self.rule()
        self.activated()
        self.settle()

    def whole(self):
        self.reached()
        self.switched_on("metadata", source=self.extra_away)
        self.switched_on(ONE, TWO, source=self.stores_away)
        return self.provider().connect(60)


@pytest.fixture(params=["5", "4"])
def world(request, monkeypatch):
    monkeypatch.setattr(block_provider, "AGAIN", 0.05)
    made = World(request.param)
    yield made
    made.close()


def newest(domain):
    files = FilesHere()
    return [
        (os.path.basename(each.path), read_ovf(files, each, VM)) for each in domain.ovf_stores().newest_first(files)
    ]


@root_only
@bindings
def test_found_activated_and_read_newest_first(world):
    connected = world.whole()
    assert connected.changed and connected.notes == ()
    assert newest(connected.domain) == [(TWO, b"<ovf of store-two/>"), (ONE, b"<ovf of store-one/>")]
    for name in ("metadata", ONE, TWO):
        facts = os.stat(world.nodes / name)
        assert (facts.st_uid, facts.st_gid) == (36, 36)
    assert not (world.nodes / DISK).exists()
    world.script.done()
    record = load_record(world.paths.storage_record, world.conf.sd_uuid)
    assert record.stores == {ONE: world.place(ONE), TWO: world.place(TWO)}


@root_only
@bindings
def test_what_the_engine_writes_later_is_seen_without_lvm(world):
    domain = world.whole().domain
    world.describe(ONE, "Tue Nov 10 16:00:00 UTC 2026")
    assert [name for name, _ovf in newest(domain)] == [ONE, TWO]
    world.describe(ONE, "Tue Nov 10 17:00:00 UTC 2026", updated=False)  # it is being written
    assert [name for name, _ovf in newest(domain)] == [TWO, ONE]
    put(world.nodes / "metadata", bytes(512), world.place(TWO))  # removed
    assert [name for name, _ovf in newest(domain)] == [ONE]
    put(world.nodes / "metadata", bytes(512), world.place(ONE))
    with pytest.raises(OvfStoreError) as caught:
        newest(domain)
    assert caught.value.code == "no-store"


@root_only
@bindings
def test_the_archive_ends_where_its_description_says(world):
    domain = world.whole().domain
    world.describe(TWO, "Tue Nov 10 15:00:00 UTC 2026", size=512)  # the header alone
    files = FilesHere()
    first = domain.ovf_stores().newest_first(files)[0]
    with pytest.raises(OvfStoreError) as caught:
        read_ovf(files, first, VM)
    assert caught.value.code == "cut-off"


@root_only
@bindings
def test_the_second_time_nothing_is_asked(world):
    world.whole()
    world.sessions(HERE)
    world.interfaces()
    assert not world.provider().connect(60).changed
    world.script.done()


@root_only
@bindings
def test_a_store_that_was_removed_is_noticed_when_it_is_connected_again(world):
    world.whole()
    os.unlink(world.nodes / ONE)
    put(world.nodes / "metadata", bytes(512), world.place(ONE))
    world.sessions(HERE)
    world.interfaces()
    world.settle()
    world.look(active={*world.names, "metadata", TWO})
    connected = world.provider().connect(60)
    assert [name for name, _ovf in newest(connected.domain)] == [TWO] and connected.notes == ()
    world.script.done()


@root_only
@bindings
@pytest.mark.parametrize("what", ["descriptions", "stores"])
def test_without_them_the_domain_is_connected_all_the_same(world, what):
    world.reached()
    sd = world.conf.sd_uuid
    said = {"status": 5, "err": "  device-mapper: reload ioctl on  (254:9) failed: Invalid argument\n", "do": []}
    if what == "descriptions":
        world.lvm("lvchange", "-ay", f"{sd}/metadata", **said)
        off = [f"{sd}/metadata"]
    else:
        world.switched_on("metadata", source=world.extra_away)
        world.lvm("lvchange", "-ay", f"{sd}/{ONE}", f"{sd}/{TWO}", **said)
        off = [f"{sd}/metadata", f"{sd}/{ONE}", f"{sd}/{TWO}"]
    world.lvm("lvchange", "-an", *off)
    connected = world.provider().connect(60)
    (note,) = connected.notes
    assert "OVF_STORE" in note and "reload ioctl" in note
    assert load_record(world.paths.storage_record, sd).stores == {}
    world.script.done()


@root_only
@bindings
def test_disconnected(world):
    world.whole()
    world.look(active={*world.names, "metadata", ONE, TWO})
    sd = world.conf.sd_uuid
    names = [*world.names, "metadata", ONE, TWO]
    world.lvm("lvchange", "-an", *(f"{sd}/{name}" for name in names))
    world.sessions()
    assert world.provider().disconnect(60)
    world.script.done()


# --- where they are ---------------------------------------------------------------------------------------------------


class Memory:
    def __init__(self, data):
        self.data = data

    def look(self, _path):
        return VolumeLook(len(self.data), 512, False)

    def read(self, _path, offset, length):
        assert offset % 4096 == 0 and length % 4096 == 0 and 0 < length <= MIB
        data = self.data[offset : offset + length]
        assert len(data) == length
        return data


def group(version, slots):
    volumes = {name: LogicalVolume(name, MIB, False, (f"MD_{slot}",)) for name, slot in slots.items()}
    volumes["untagged"] = LogicalVolume("untagged", MIB, False, ())
    return Group("u", {"VERSION": version}, True, False, 0, volumes, (), ())


@given(st.sampled_from(["3", "4", "5"]), st.lists(st.integers(0, 600), unique=True, max_size=12), st.data())
def test_each_store_by_its_place_and_nothing_else(version, slots, data):
    volumes = {f"v{slot}": slot for slot in slots}
    stores = set(data.draw(st.lists(st.sampled_from(sorted(volumes)), unique=True))) if volumes else set()
    found = group(version, volumes)
    offsets, size = description_offsets(found), description_place(found)
    assert size == (8192 if version == "5" else 512) and "untagged" not in offsets
    content = bytearray(MIB + 601 * 8192)
    for name, offset in offsets.items():
        text = meta(1024) if name in stores else DISK_TEXT
        content[offset : offset + size] = text[:size].ljust(size, b"\0")
    assert set(search(Memory(bytes(content)), "/d", offsets, size)) == stores


@given(st.binary(max_size=3 * 8192), st.sampled_from(["4", "5"]))
def test_any_bytes_may_be_there(content, version):
    found = group(version, {"a": 0, "b": 3, "c": 500})
    data = bytes(MIB if version == "5" else 0) + content
    data = data.ljust(-(-len(data) // 4096) * 4096, b"\0")
    search(Memory(data), "/d", description_offsets(found), description_place(found))


def test_a_record_of_the_version_before(tmp_path):
    path = tmp_path / "record"
    path.write_text(json.dumps({"sd_uuid": "s", "sector_size": 512, "alignment": MIB, "slots": {"disk": SLOT}}))
    record = load_record(path, "s")
    assert record.stores == {}
    with pytest.raises(OvfStoreError) as caught:
        BlockDomain(record).ovf_stores().newest_first(FilesHere())
    assert caught.value.code == "no-store"
