"""Connecting a file domain, with a scripted mount: order and arguments of the calls, what is checked before the domain
counts as connected, and that a failure leaves nothing behind."""

import errno
import os
import stat
import time

import pytest

from ovirt_he_ha.config.text import ConfigError
from ovirt_he_ha.storage import file_provider, io_process
from ovirt_he_ha.storage.domain_place import domain_of
from ovirt_he_ha.storage.errors import DomainProblem, StorageError
from ovirt_he_ha.storage.file_provider import MountProvider, Verifier
from ovirt_he_ha.storage.mount_kinds import mount_plan
from ovirt_he_ha.storage.refusal import Refusal
from ovirt_he_ha.storage.volumes import MIB, OWNER, SCANNED, VolumeSizes
from tests.own_time import OwnTime
from tests.storage.mounted_world import NFS, MountedWorld
from tests.storage.sanlock_records import lockspace, put, sector
from tests.storage.scripted import refusal

pytestmark = pytest.mark.system_python  # sanlock's binding reads the lockspace
ROOT = os.geteuid() == 0


@pytest.fixture
def world(monkeypatch):
    made = MountedWorld()
    if not ROOT:  # the script needs no root, only the product insists on it
        monkeypatch.setattr(MountProvider, "_check_root", lambda self: None)
    yield made
    made.close()


# --- connecting and disconnecting --------------------------------------------------------------------------------


def test_mounted_verified_and_left_alone_when_it_is_there(world):
    world.make_domain()
    world.expect_mount()
    connected = world.provider().connect(20)
    assert connected.changed and connected.domain.directory == f"{world.target}/{world.conf.sd_uuid}"
    world.script.done()
    again = world.provider().connect(20)
    assert not again.changed and again.domain.directory == connected.domain.directory
    world.script.done()  # nothing more was called


@pytest.mark.parametrize(
    "keys",
    [
        {"storage": "srv:/export/a_b/"},
        {"storage": "[fe80::1%ens1]:/x"},
        {"domainType": "glusterfs", "storage": "a,b:/vol"},
        {"domainType": "posixfs", "storage": "mon1:6789,mon2:6789:/", "vfs_type": "ceph"},
    ],
)
def test_the_daemons_look_where_it_was_mounted(world, keys):
    world.configure(**{"domainType": "nfs", **keys})
    world.make_domain()
    plan = mount_plan(world.conf, world.paths)
    kind = sorted(plan.kinds)[0]
    world.expect_mount(plan.options, plan.type, plan.source, plan.target, kind)
    connected = world.provider().connect(20)
    seen = domain_of(world.conf, world.paths)
    assert seen.directory == connected.domain.directory and seen.sector_size() == 512
    assert str(world.paths.mount_root) in seen.directory
    world.script.done()


def test_disconnected_once_and_the_mount_point_goes(world):
    world.make_domain()
    world.mounted()
    world.expect_umount()
    assert world.provider().disconnect(20)
    assert not world.provider().disconnect(20)
    assert world.made() == []
    world.script.done()


def test_the_mount_point_can_be_entered_whatever_the_umask(world):
    world.make_domain()
    world.expect_mount()
    before = os.umask(0o077)
    try:
        world.provider().connect(20)
    finally:
        os.umask(before)
    assert stat.S_IMODE(os.stat(world.paths.mount_root).st_mode) == 0o755


KINDS = [
    ({"domainType": "nfs"}, "nfs", NFS),
    ({"domainType": "nfs", "nfs_version": "auto"}, "nfs", NFS),
    ({"domainType": "nfs", "nfs_version": "v4_1"}, "nfs", NFS + ",vers=4.1"),
    ({"domainType": "nfs", "nfs_version": "v3"}, "nfs", NFS + ",vers=3,nolock"),
    ({"domainType": "nfs3"}, "nfs", NFS + ",vers=3,nolock"),
    ({"domainType": "nfs4", "nfs_version": "v3"}, "nfs", NFS + ",vers=4"),
    ({"domainType": "nfs", "mnt_options": "sec=krb5p,,port=2050"}, "nfs", NFS + ",sec=krb5p,port=2050"),
    ({"domainType": "posixfs", "vfs_type": "cephfs"}, "cephfs", "rw,nosuid,nodev,noexec"),
]


@pytest.mark.parametrize("keys,kind,options", KINDS)
def test_the_options_of_each_kind(world, keys, kind, options):
    world.configure(storage="srv:/export/a_b", **keys)
    world.make_domain()
    world.expect_mount(options, kind, seen_kind=kind if kind == "cephfs" else "nfs4")
    assert world.provider().connect(20).changed
    world.script.done()


def test_gluster_has_a_directory_of_its_own(world):
    world.configure(domainType="glusterfs", storage="srv:/vol_1/", mnt_options="backup-volfile-servers=b:c")
    world.make_domain()
    target = str(world.paths.mount_root / "glusterSD" / "srv:_vol__1")
    world.expect_mount(
        "rw,nosuid,nodev,noexec,backup-volfile-servers=b:c", "glusterfs", "srv:/vol_1", target, "fuse.glusterfs"
    )
    assert world.provider().connect(20).changed
    assert not world.provider().connect(20).changed
    world.script.done()


@pytest.mark.parametrize(
    "storage", ["srv:/export/a_b/", "srv://export//a_b", "srv:/export/./a_b", "srv:/x/../export/a_b"]
)
def test_a_path_with_detours_is_the_same_export(world, storage):
    world.configure(domainType="nfs", storage=storage)
    world.make_domain()
    world.expect_mount()
    world.provider().connect(20)
    world.script.done()


@pytest.mark.parametrize(
    "source,target",
    [("srv:/export/a_b/", "srv:_export_a__b_"), ("SRV:/export/a_b", "SRV:_export_a__b"), ("srv://export/a_b", "other")],
)
def test_the_same_export_is_never_mounted_twice(world, source, target):
    world.make_domain()
    place = str(world.paths.mount_root / target)
    with open(world.table, "a") as file:
        file.write(world.line(source, place))
    problem = refusal(lambda: world.provider().connect(20))
    assert problem.code == "duplicate" and place in str(problem) and world.made() is None
    world.script.done()


def test_a_mount_elsewhere_is_the_administrators(world):
    world.make_domain()
    with open(world.table, "a") as file:
        file.write(world.line(target="/mnt/backup"))
    world.expect_mount()
    assert world.provider().connect(20).changed


def test_something_else_at_our_place(world):
    with open(world.table, "a") as file:
        file.write(world.line("other:/export"))
    assert refusal(lambda: world.provider().connect(20)).code == "occupied"
    assert refusal(lambda: world.provider().disconnect(20)).code == "occupied"
    world.script.done()


# --- bad configuration: nothing is called ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "keys",
    [
        {"storage": "srv"},
        {"storage": "srv:"},
        {"storage": "srv:export"},
        {"storage": "fe80::1:/export"},
        {"storage": "a:b:/export"},
        {"storage": "-oexec:/x"},
        {"storage": "srv:/a b"},
        {"storage": "srv:/a\\n"},
        {"nfs_version": "5"},
        {"nfs_version": "v3_1"},
        {"mnt_options": "sec=sys;reboot"},
        {"domainType": "glusterfs", "storage": "/vol"},
        {"domainType": "posixfs", "storage": "relative", "vfs_type": "xfs"},
        {"domainType": "posixfs"},
        {"domainType": "posixfs", "vfs_type": "-f"},
    ],
)
def test_a_configuration_that_mount_could_misread(world, keys):
    world.configure(**{"domainType": "nfs", "storage": "srv:/export", **keys})
    with pytest.raises(ConfigError) as caught:
        world.provider()
    assert str(world.paths.hosted_engine_conf) in str(caught.value)
    world.script.done()


@pytest.mark.parametrize(
    "options",
    [
        *("user=a,password=geheim", "user=a,pass=geheim", "secret=geheim", "passwd2=geheim", "PASSWORD2=geheim,ro"),
        *("user=a, password=geheim", "user=a;password=geheim", "password =geheim", "pw=geheim", "passphrase=geheim"),
        *("user=a%geheim", "username=a%geheim,ro", "user=a, b geheim", "kennwort geheim"),
    ],
)
def test_no_password_on_a_command_line(world, options):
    world.configure(domainType="posixfs", vfs_type="cifs", storage="srv:/x", mnt_options=options)
    with pytest.raises(ConfigError) as caught:
        world.provider()
    assert caught.value.key == "mnt_options" and "geheim" not in str(caught.value)


@pytest.mark.parametrize("storage", ["bob:geheim@srv:/x", "//bob:geheim@srv/x", "https://bob:geheim@srv/x"])
def test_no_password_in_a_source(world, storage):
    world.configure(domainType="posixfs", vfs_type="davfs", storage=storage)
    with pytest.raises(ConfigError) as caught:
        world.provider()
    assert caught.value.key == "storage" and "geheim" not in str(caught.value)


@pytest.mark.parametrize(
    "options",
    ["credentials=/etc/he/cred", "secretfile=/etc/he/s", "user=a,sec=krb5i", "cruid=0,iocharset=utf8", "context=a:b:c"],
)
def test_a_file_with_the_password_is_no_password(world, options):
    world.configure(domainType="posixfs", vfs_type="cifs", storage="bob@srv:/x", mnt_options=options)
    assert mount_plan(world.conf, world.paths).options.endswith(options)


# --- what mount says ------------------------------------------------------------------------------------------------

SAID = [
    ("mount.nfs: access denied by server while mounting srv:/export/a_b", "no-access"),
    ("mount.nfs: mounting srv:/export/a_b failed, reason given by server: No such file or directory", "no-export"),
    ("mount.nfs: Connection refused", "no-server"),
    ("mount.nfs: Connection timed out", "no-server"),
    ("mount.nfs: No route to host", "no-server"),
    ("mount.nfs: Failed to resolve server srv: Name or service not known", "no-server"),
    ("mount.nfs: requested NFS version or transport protocol is not supported", "nfs-version"),
    ("mount.nfs: Protocol not supported", "nfs-version"),
    ("mount.nfs: an incorrect mount option was specified", "options"),
    (
        "mount: /x: bad option; for several filesystems (e.g. nfs, cifs) you might need a /sbin/mount.<type> helper "
        "program.",
        "no-helper",
    ),
    ("mount: /x: unknown filesystem type 'nfs'.", "no-helper"),
    ("mount.nfs4: No such device", "no-helper"),
    ("mount.nfs: Stale file handle", "stale"),
    ("mount: /x: cannot mount srv:/export/a_b read-only.", "read-only"),
    ("Mount failed. Check the log file  for more details.", "no-export"),
    ("something nobody has seen before", "command"),
    ("", "command"),
]


@pytest.mark.parametrize("err,code", SAID)
def test_a_refused_mount_has_its_reason_and_leaves_nothing(world, err, code):
    world.refuse_mount(err + "\n")
    problem = refusal(lambda: world.provider().connect(20))
    assert problem.code == code and problem.object == "srv:/export/a_b"
    assert " ".join(err.split()) in str(problem) and problem.what_to_do
    assert world.made() is None or world.made() == []
    world.script.done()


def test_without_the_program(world):
    os.unlink(world.script.directory / "mount")
    commands = world.script.commands
    commands._environ["PATH"] = str(world.script.directory)
    found = refusal(lambda: MountProvider(world.conf, world.paths, commands, None, lambda: True).connect(5))
    assert found.code == "no-helper" and "util-linux" in str(found)


def test_a_mount_that_hangs_is_ended(world, monkeypatch):
    monkeypatch.setattr(file_provider, "_REST", 0.2)
    world.expect_mount(do=[["sleep", 60]])
    took = OwnTime()
    assert refusal(lambda: world.provider().connect(0.5)).code == "silent"
    assert took.seconds < 3 and not world.made()


def test_a_mount_that_came_too_late_is_undone(world, monkeypatch):
    monkeypatch.setattr(file_provider, "_REST", 2.0)
    target = world.target
    late = [["append", str(world.table), world.line()], ["sleep", 60]]
    world.expect_mount(do=late)
    world.expect_umount(do=[["drop", str(world.table), f" {target} "]])
    assert refusal(lambda: world.provider().connect(0.5)).code == "silent"
    assert not world.made()
    world.script.done()


# --- what lies there -----------------------------------------------------------------------------------------------


def broken(world, code):
    """The mount works and is undone, because what it shows is refused."""
    world.expect_mount()
    world.expect_umount()
    with pytest.raises((DomainProblem, StorageError)) as caught:
        world.provider().connect(20)
    assert caught.value.code == code
    assert not world.made()
    world.script.done()
    return caught.value


def test_a_wrong_export(world):
    problem = broken(world, "no-domain")
    assert world.conf.sd_uuid in str(problem) and "srv:/export/a_b" in str(problem)


def test_another_domains_metadata(world):
    domain = world.make_domain()
    with open(domain.metadata_path, "w") as file:
        file.write("SDUUID=11111111-1111-1111-1111-111111111111\n")
    broken(world, "metadata")


def test_a_lockspace_of_another_domain(world):
    domain = world.make_domain()
    put(domain.ids_path, lockspace("11111111-1111-1111-1111-111111111111"))
    broken(world, "lockspace")


@pytest.mark.parametrize("content", [bytes(4096), b"\xff" * 4096], ids=["blank", "noise"])
def test_no_lockspace(world, content):
    put(world.make_domain().ids_path, content)
    broken(world, "lockspace")


@pytest.mark.parametrize("key", [None, "00000000-0000-4000-8000-00000000000f"])
def test_the_lease_of_another_disk_or_none(world, key):
    domain = world.make_domain()
    lease = domain.lease(world.conf.vm_disk_id, world.conf.vm_disk_vol_id)
    put(lease.path, sector((0x06152010, 0x60004), lease.lockspace, key) if key else bytes(512))
    broken(world, "lease")


def test_a_lease_that_is_missing(world):
    domain = world.make_domain()
    os.unlink(domain.lease(world.conf.vm_disk_id, world.conf.vm_disk_vol_id).path)
    broken(world, "missing")


def test_a_lockspace_that_ends_early(world):
    os.truncate(world.make_domain().ids_path, 4096)
    broken(world, "too-small")


@pytest.mark.skipif(not ROOT, reason="needs root: the looks are those of another user")
def test_what_the_daemons_may_not_write_is_refused_though_root_could(world):
    domain = world.make_domain()
    os.chown(domain.ids_path, 0, 0)
    broken(world, "no-access")


@pytest.mark.skipif(not ROOT, reason="needs root: the looks are those of another user")
def test_an_export_that_the_daemons_may_not_enter(world):
    world.make_domain()
    os.chmod(world.export / world.conf.sd_uuid, 0o700)
    os.chown(world.export / world.conf.sd_uuid, 0, 0)
    broken(world, "no-access")


# --- a handle that went stale -----------------------------------------------------------------------------------


def stale_until_mounted(world, monkeypatch):
    """The file system answers ESTALE until it is mounted anew."""
    program = world.root / "stale_io.py"
    program.write_text(
        f"""
import errno, importlib.util, os, sys
spec = importlib.util.spec_from_file_location("io_process_itself", {io_process.__file__!r})
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
real = module.names
def names(path):
    if os.path.exists({str(world.root / "stale")!r}):
        raise module.IoFailure.of(OSError({errno.ESTALE}, "stale"))
    return real(path)
module.names = names
sys.exit(module.main())
"""
    )
    program.chmod(0o644)
    monkeypatch.setattr(io_process, "__file__", str(program))
    (world.root / "stale").touch()


def test_a_stale_handle_is_mounted_anew(world, monkeypatch):
    world.make_domain()
    world.mounted()
    stale_until_mounted(world, monkeypatch)
    world.expect_umount()
    again = [["append", str(world.table), world.line()], ["move", str(world.export), world.target]]
    world.expect_mount(do=[*again, ["unlink", str(world.root / "stale")]])
    assert world.provider().connect(20).changed
    world.script.done()


def test_a_stale_handle_in_use_is_never_torn_away(world, monkeypatch):
    world.make_domain()
    world.mounted()
    stale_until_mounted(world, monkeypatch)
    world.expect_umount(do=[], status=32, err=f"umount.nfs4: {world.target}: device is busy\n")
    problem = refusal(lambda: world.provider().connect(20))
    assert problem.code == "busy" and "device is busy" in str(problem)
    assert world.line() in world.table.read_text()
    world.script.done()


def test_a_stale_handle_that_stays_stale_ends_unmounted(world, monkeypatch):
    world.make_domain()
    world.mounted()
    stale_until_mounted(world, monkeypatch)
    world.expect_umount()
    world.expect_mount()
    world.expect_umount()
    assert refusal(lambda: world.provider().connect(20)).code == "stale"
    world.script.done()


def test_a_mount_that_does_not_answer_stays(world, monkeypatch):
    world.make_domain()
    world.mounted()
    program = world.root / "hanging_io.py"
    program.write_text("import signal\nwhile True:\n    signal.pause()\n")
    program.chmod(0o644)
    monkeypatch.setattr(io_process, "__file__", str(program))
    begun = time.monotonic()
    assert refusal(lambda: world.provider().connect(1)).code == "silent"
    assert time.monotonic() - begun < 5 and world.line() in world.table.read_text()
    world.script.done()


def test_a_busy_mount_is_not_disconnected(world):
    world.mounted()
    world.expect_umount(do=[], status=32, err=f"umount: {world.target}: target is busy.\n")
    assert refusal(lambda: world.provider().disconnect(20)).code == "busy"
    assert os.path.isdir(world.target)


# --- copies -----------------------------------------------------------------------------------------------------


def connect_once(world, generations=None):
    domain = world.make_domain(generations=generations)
    world.expect_mount()
    world.provider().connect(20)
    return domain


def away(world):
    world.expect_umount()
    world.provider().disconnect(20)


@pytest.mark.skipif(not ROOT, reason="needs root: only root remembers")
class TestCopies:
    def test_a_restored_export_is_noticed_and_can_be_accepted(self, world):
        connect_once(world)
        away(world)
        ids = world.export / world.conf.sd_uuid / "dom_md" / "ids"
        content = ids.read_bytes()
        os.rename(ids, f"{ids}.before")
        ids.write_bytes(content)
        os.chown(ids, *OWNER)
        problem = broken(world, "another-copy")
        assert "--accept-copy" in str(problem)
        world.expect_mount()
        assert world.provider(accept=True).connect(20).changed
        assert not world.provider().connect(20).changed

    def test_an_older_state_of_the_same_files_is_noticed(self, world):
        connect_once(world, {2: 7})
        away(world)
        put(world.export / world.conf.sd_uuid / "dom_md" / "ids", lockspace(world.conf.sd_uuid, {2: 6}))
        broken(world, "older-copy")

    def test_a_later_generation_is_the_normal_case(self, world):
        connect_once(world, {2: 7})
        put(f"{world.target}/{world.conf.sd_uuid}/dom_md/ids", lockspace(world.conf.sd_uuid, {2: 8}))
        assert not world.provider().connect(20).changed
        put(f"{world.target}/{world.conf.sd_uuid}/dom_md/ids", lockspace(world.conf.sd_uuid, {2: 7}))
        assert refusal(lambda: world.provider().connect(20)).code == "older-copy"
        assert os.path.isdir(f"{world.target}/{world.conf.sd_uuid}")  # was mounted before: stays so

    def test_another_host_id_has_its_own_count(self, world):
        connect_once(world, {2: 7})
        world.configure(domainType="nfs", storage="srv:/export/a_b", host_id="3")
        assert not world.provider().connect(20).changed

    def test_another_deployment_begins_anew(self, world):
        connect_once(world, {2: 7})
        known = world.paths.storage_identity
        known.write_text(known.read_text().replace(world.conf.sd_uuid, "11111111-1111-1111-1111-111111111111"))
        assert not world.provider().connect(20).changed

    @pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"copy": 1}'])
    def test_a_damaged_memory_is_not_guessed(self, world, content):
        connect_once(world)
        world.paths.storage_identity.write_text(content)
        with pytest.raises(ConfigError):
            world.provider().connect(20)

    def test_remembering_needs_no_write_when_nothing_changed(self, world):
        connect_once(world)
        before = os.stat(world.paths.storage_identity)
        world.provider().connect(20)
        assert os.stat(world.paths.storage_identity).st_ino == before.st_ino


@pytest.mark.parametrize("sector_size", [512, 4096])
def test_sectors(world, sector_size):
    world.make_domain(sector_size)
    world.expect_mount()
    assert world.provider().connect(20).domain.sector_size() == sector_size


@pytest.mark.parametrize("alignment, refused", [("", ""), ("1048576", ""), ("2097152", "too-small"), ("0", "metadata")])
def test_a_domain_with_large_sectors_has_a_lockspace_as_long_as_it_says(world, alignment, refused):
    """The management application makes one for 250 hosts with 1 MiB, whatever the sectors."""
    world.make_domain(4096, sizes=VolumeSizes(metadata=SCANNED, lockspace=MIB, configuration=MIB, lease=MIB))
    metadata = world.export / world.conf.sd_uuid / "dom_md" / "metadata"
    metadata.write_text(
        metadata.read_text().replace("ALIGNMENT=1048576\n", f"ALIGNMENT={alignment}\n" if alignment else "")
    )
    world.expect_mount()
    if not refused:
        world.provider().connect(20)
        return
    world.expect_umount()
    with pytest.raises(DomainProblem) as caught:
        world.provider().connect(20)
    assert caught.value.code == refused


def test_without_root_nothing_is_called(world):
    world.make_domain()
    verifier = Verifier(world.conf, world.paths)
    provider = MountProvider(world.conf, world.paths, world.script.commands, verifier, is_root=lambda: False)
    if not ROOT:
        pytest.skip("the check of root is taken out for this user")
    assert refusal(lambda: provider.connect(20)).code == "not-root"
    assert world.made() is None
    world.script.done()


def test_a_refusal_that_cannot_be_read_is_one(tmp_path):
    refusal = Refusal(tmp_path / "deep" / "refused")
    assert refusal.why() == ""
    refusal.note("why not")
    assert refusal.why() == "why not"
    (tmp_path / "deep" / "refused").write_bytes(b"\xff")
    assert refusal.why()
    (tmp_path / "deep" / "refused").write_bytes(b"")
    assert refusal.why()
    refusal.clear()
    refusal.clear()
    assert refusal.why() == ""
