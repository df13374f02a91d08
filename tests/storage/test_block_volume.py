"""A lost logical volume made anew, with a scripted lvm: every argument, what is refused before anything is made, and
that nothing is left of what failed. The words are those of lvm2 2.03.16, run on a loop device without device-mapper."""

import os

import pytest

from ovirt_he_ha.storage import block_provider
from ovirt_he_ha.storage.command import CommandError
from ovirt_he_ha.storage.connection import connect, make_volume
from ovirt_he_ha.storage.errors import DomainProblem
from ovirt_he_ha.storage.volumes import MIB, SCANNED, VolumeName
from tests.storage.block_world import HERE, SLOT, BlockWorld
from tests.storage.sanlock_records import RESOURCE, put, sector
from tests.storage.scripted import refusal

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: block domains are connected by nobody else"),
    pytest.mark.system_python,  # sanlock's binding reads the lockspace
]
SIZE, EXTENT, ROUNDED = 10 * MIB, 4 * MIB, 12 * MIB
OLD = b"what the extents held before, an old slot among it " * 1000
NO_PARENT = "PU_00000000-0000-0000-0000-000000000000"


class World(BlockWorld):
    """Its metadata volume is lost."""

    def __init__(self):
        super().__init__()
        self.make_volumes()
        self.name = self.conf.metadata_volume_uuid
        self.image = self.conf.metadata_image_uuid
        self.marks = [f"IU_{self.image}", f"MD_{SLOT + 1}", NO_PARENT]
        self.device = self.nodes / self.name
        self.fresh = self.root / "fresh"  # what appears below /dev once lvcreate has run
        self.fresh.mkdir()
        os.unlink(self.away / self.name)
        with open(self.fresh / self.name, "wb") as file:
            file.write(OLD)
            file.truncate(ROUNDED)
        self.leases = self.root / "leases"
        self.leases.mkdir()
        os.rename(self.away / "leases", self.leases / "leases")

    def make(self, force=False):
        name = VolumeName(self.image, self.name)
        return make_volume(self.conf, self.paths, name, SIZE, SCANNED, 60, force, self.script.commands)

    def manager(self, owner, timestamp=1):
        """The lease of the host that may write the group."""
        put(
            self.leases / "leases",
            sector(RESOURCE, self.conf.sd_uuid, "SDM", owner=owner, generation=1, timestamp=timestamp),
            MIB,
        )

    # --- steps of the script ---

    def reached(self, **group):
        """Logged in by this call, nothing active."""
        self.sessions()
        self.interfaces()
        self.record = self.login()
        self.settle()
        self.found(**{"without": (self.name,), **group})

    def leases_on(self):
        act = [["move", str(self.leases), str(self.nodes)]]
        self.lvm("lvchange", "-ay", f"{self.conf.sd_uuid}/leases", do=act)
        self.settle()

    def created(self, marks=None, **step):
        act = [["move", str(self.fresh), str(self.nodes)]]
        self.lvcreate(self.name, ROUNDED, marks or self.marks, **{"do": act, **step})

    def seen(self, size=ROUNDED, marks=None, gone=False):
        """The look after it; lvm sorts the tags."""
        self.settle()
        tags = ",".join(sorted(self.marks)) if marks is None else marks
        without = (self.name,) if gone else ()
        self.found(without=without, sizes={self.name: str(size)}, lv_tags={self.name: tags})

    def left_as_it_was(self, *names):
        if names:
            self.lvm("lvchange", "-an", *(f"{self.conf.sd_uuid}/{name}" for name in names))
        self.node("--logout")
        self.node("-o", "delete", do=[["unlink", str(self.record)]])

    def removed(self, **step):
        self.lvremove(self.name, **{"do": [["unlink", str(self.device)]], **step})


@pytest.fixture
def world(monkeypatch):
    monkeypatch.setattr(block_provider, "AGAIN", 0.05)
    made = World()
    yield made
    made.close()


# --- made -------------------------------------------------------------------------------------------------------------


def test_made_with_its_size_and_tags_and_without_what_was_there(world):
    world.reached()
    world.leases_on()
    world.space(extent=EXTENT)
    world.created()
    world.seen()
    world.left_as_it_was("leases", world.name)
    assert world.make()
    data = world.device.read_bytes()
    assert len(data) == ROUNDED and data[:SCANNED] == bytes(SCANNED)
    assert not world.record.exists() and not world.paths.storage_record.exists()
    world.script.done()


def test_then_the_domain_can_be_connected(world):
    world.reached()
    world.leases_on()
    world.space(extent=EXTENT)
    world.created()
    world.seen()
    world.left_as_it_was("leases", world.name)
    world.make()
    for name in ("leases", world.name):  # inactive again
        os.rename(world.nodes / name, world.away / name)
    world.first_connection()
    _provider, connected = connect(world.conf, world.paths, 60, commands=world.script.commands)
    assert connected.changed and (os.stat(world.device).st_uid, os.stat(world.device).st_gid) == (36, 36)
    world.script.done()


def test_a_connected_domain_keeps_its_sessions_and_gets_the_volume(world):
    world.active = {name for name in world.names if name != world.name}
    os.rename(world.leases / "leases", world.nodes / "leases")
    world.sessions(HERE)
    world.interfaces()
    world.settle()
    world.found(without=(world.name,))
    world.space(extent=EXTENT)
    world.created()
    world.seen()
    assert world.make()
    world.script.done()


@pytest.mark.parametrize("tags,number", [("MD_41", 42), ("MD_2", 4), ("nothing", 4)])
def test_its_place_is_nobody_elses(world, tags, number):
    """Nor one of the first four, which a management application keeps."""
    world.marks[1] = f"MD_{number}"
    disk = {world.conf.vm_disk_vol_id: tags}
    world.reached(lv_tags=disk)
    world.leases_on()
    world.space(extent=EXTENT)
    world.created()
    world.settle()
    world.found(sizes={world.name: str(ROUNDED)}, lv_tags={**disk, world.name: ",".join(world.marks)})
    world.left_as_it_was("leases", world.name)
    assert world.make()
    world.script.done()


# --- refused before anything is made ----------------------------------------------------------------------------------


def test_one_that_is_there_is_left_alone(world):
    world.reached(without=())
    world.left_as_it_was()
    assert not world.make()
    world.script.done()


@pytest.mark.parametrize("free", [0, ROUNDED - EXTENT, ROUNDED - 1])
def test_no_space(world, free):
    world.reached()
    world.leases_on()
    world.space(free, EXTENT)
    world.left_as_it_was("leases")
    problem = refusal(world.make)
    assert problem.code == "full" and str(ROUNDED) in str(problem) and str(free) in str(problem)
    world.script.done()


def test_exactly_the_space_is_enough(world):
    world.reached()
    world.leases_on()
    world.space(ROUNDED, EXTENT)
    world.created()
    world.seen()
    world.left_as_it_was("leases", world.name)
    assert world.make()
    world.script.done()


@pytest.mark.parametrize(
    "group,code",
    [
        ({"duplicates": ("/dev/sdc",)}, "another-copy"),
        ({"attributes": "wzx-n-"}, "in-use"),
        ({"attributes": "rz--n-"}, "read-only"),
        ({"attributes": "wz-pn-", "missing": "1"}, "no-lun"),
    ],
)
def test_a_group_that_must_not_be_written(world, group, code):
    world.reached(**group)
    world.left_as_it_was()
    assert refusal(world.make).code == code
    world.script.done()


def test_a_group_that_a_management_application_writes(world):
    world.manager(owner=3)
    world.reached()
    world.leases_on()
    world.left_as_it_was("leases")
    problem = refusal(world.make)
    assert problem.code == "in-use" and "host 3" in str(problem)
    world.script.done()


def test_one_whose_manager_gave_it_up(world):
    world.manager(owner=3, timestamp=0)
    world.reached()
    world.leases_on()
    world.space(extent=EXTENT)
    world.created()
    world.seen()
    world.left_as_it_was("leases", world.name)
    assert world.make()
    world.script.done()


def test_one_of_which_nobody_knows_who_writes_it(world):
    world.manager(owner=3)
    put(world.leases / "leases", b"\xff", MIB + 40)  # within what the checksum is of
    world.reached()
    world.leases_on()
    world.left_as_it_was("leases")
    assert refusal(world.make).code == "lease"
    world.script.done()


def test_by_force_nevertheless(world):
    world.manager(owner=3)
    world.reached()
    world.space(extent=EXTENT)
    world.created()
    world.seen()
    world.left_as_it_was(world.name)
    assert world.make(force=True)
    world.script.done()


def test_where_vdsm_runs_it_alone_does(world):
    process = world.root / "proc" / "77"
    process.mkdir(parents=True)
    (process / "cmdline").write_bytes(b"/usr/bin/python3\0/usr/share/vdsm/vdsmd\0")
    assert refusal(world.make).code == "in-use"
    assert refusal(lambda: world.make(force=True)).code == "in-use"
    world.script.done()


# --- refused by LVM, or failed half way -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "said,code",
    [
        ('Volume group "{sd}" has insufficient free space (2 extents): 3 required.', "full"),
        ('Logical Volume "{name}" already exists in volume group "{sd}"', "in-use"),
    ],
)
def test_another_was_faster(world, said, code):
    """And what it made is not removed."""
    text = "  " + said.format(sd=world.conf.sd_uuid, name=world.name) + "\n"
    world.reached()
    world.leases_on()
    world.space(extent=EXTENT)
    world.created(do=[], out="", err=text, status=5)
    world.left_as_it_was("leases")
    problem = refusal(world.make)
    assert problem.code == code and text.strip() in str(problem)
    world.script.done()


def test_whatever_else_lvm_says(world):
    world.reached()
    world.leases_on()
    world.space(extent=EXTENT)
    world.created(do=[], out="", err="  Can't get lock for vg\n", status=5)
    world.left_as_it_was("leases")
    with pytest.raises(CommandError) as caught:
        world.make()
    assert "Can't get lock" in str(caught.value)
    world.script.done()


@pytest.mark.parametrize("seen", [{"gone": True}, {"size": EXTENT}, {"marks": "IU_x,MD_9"}])
def test_another_writer_of_the_group(world, seen):
    """What bears the name may be its: that is not removed."""
    world.reached()
    world.leases_on()
    world.space(extent=EXTENT)
    world.created()
    world.seen(**seen)
    world.left_as_it_was("leases")
    assert refusal(world.make).code == "in-use"
    assert world.device.exists()
    world.script.done()


def test_without_its_node_it_is_removed_again(world):
    world.reached()
    world.leases_on()
    world.space(extent=EXTENT)
    world.created(do=[])
    world.seen()
    world.removed(do=[])
    world.left_as_it_was("leases")
    assert refusal(world.make).code == "no-volume"
    world.script.done()


def test_one_that_cannot_be_zeroed_is_removed_again(world, monkeypatch):
    from ovirt_he_ha.storage import block_volume

    def failing(path, *_rest, **_more):
        raise DomainProblem("io", path, "storage that answers", "look into the kernel log")

    monkeypatch.setattr(block_volume, "create_volume", failing)
    world.reached()
    world.leases_on()
    world.space(extent=EXTENT)
    world.created()
    world.seen()
    world.removed()
    world.left_as_it_was("leases")
    assert refusal(world.make).code == "io"
    assert not world.device.exists()
    world.script.done()


def test_one_that_cannot_be_removed_either_is_named(world):
    world.reached()
    world.leases_on()
    world.space(extent=EXTENT)
    world.created(do=[])
    world.seen()
    world.removed(do=[], err="  Can't get lock for vg\n", status=5)
    world.left_as_it_was("leases")
    problem = refusal(world.make)
    assert problem.code == "command" and world.name in str(problem)
    assert "lvremove" in str(problem) and "device node" in str(problem) and "Can't get lock" in str(problem)
    world.script.done()
