"""A full and a read-only file system under this host's files: a named error, the old content, nothing left behind."""

import errno
import logging
from pathlib import Path

import pytest

from ovirt_he_ha.broker.rpc import RpcServer, SocketProblem
from ovirt_he_ha.config.files import atomic_write, load_ha_conf, save_ha_conf
from ovirt_he_ha.config.journal import finish_logging, setup_logging
from tests.cli.world import World as Host
from tests.cli.world import run as hosted_engine
from tests.config.own_mounts import SmallDisk, with_small_disk


def names(path: Path) -> list:
    return sorted(each.name for each in path.iterdir() if not each.name.startswith("ballast"))


@pytest.mark.parametrize("how", ["full", "no inodes", "read-only"])
def test_a_file_is_replaced_as_a_whole_or_not_at_all(tmp_path, how):
    def story(disk: SmallDisk) -> None:
        path = disk.path / "vm.conf"
        atomic_write(path, b"old\n" * 10)
        {"full": disk.fill, "no inodes": disk.fill_inodes, "read-only": disk.read_only}[how]()
        with pytest.raises(OSError) as caught:
            atomic_write(path, b"new\n" * 1000)
        assert caught.value.errno == (errno.EROFS if how == "read-only" else errno.ENOSPC)
        assert path.read_bytes() == b"old\n" * 10
        assert names(disk.path) == ["vm.conf"]
        disk.read_only(False)
        disk.empty()
        atomic_write(path, b"new\n" * 1000)
        assert path.read_bytes() == b"new\n" * 1000

    with_small_disk(tmp_path, story)


@pytest.mark.parametrize("how", ["full", "read-only"])
def test_maintenance_cannot_be_changed_and_stays_what_it_was(tmp_path, how):
    def story(disk: SmallDisk) -> None:
        path = disk.path / "ha.conf"
        save_ha_conf(path, local_maintenance=True, manual=True, reason="disks")
        {"full": disk.fill, "read-only": disk.read_only}[how]()
        with pytest.raises(OSError, match=r"space|[Rr]ead-only"):
            save_ha_conf(path, local_maintenance=False, manual=False)
        conf = load_ha_conf(path)
        assert (conf.maintenance, conf.reason) == (True, "disks")

    with_small_disk(tmp_path, story)


def test_a_host_without_ha_conf_on_a_full_disk_is_not_in_maintenance(tmp_path):
    def story(disk: SmallDisk) -> None:
        disk.fill()
        with pytest.raises(OSError, match="space"):
            save_ha_conf(disk.path / "ha.conf", local_maintenance=True)
        assert not load_ha_conf(disk.path / "ha.conf").maintenance

    with_small_disk(tmp_path, story)


@pytest.mark.parametrize(("how", "said"), [("full", "No space left"), ("read-only", "Read-only")])
def test_the_command_says_so_and_fails(monkeypatch, how, said):
    host = Host()
    monkeypatch.setenv("OVIRT_HE_ROOT", str(host.root))
    host.start_broker()

    def story(disk: SmallDisk) -> None:
        {"full": disk.fill, "read-only": disk.read_only}[how]()
        ran = hosted_engine("--set-maintenance", "--mode=local")
        assert (ran.status, ran.out) == (1, "")
        assert said in ran.err and str(host.paths.ha_conf.parent) in ran.err
        # The cluster's flag lies elsewhere: it can be set.
        assert hosted_engine("--set-maintenance", "--mode=global").status == 0

    try:
        with_small_disk(host.paths.state_dir, story)
        assert host.slots[0].startswith(b"maintenance=1")
    finally:
        host.close()


def test_a_broker_without_room_for_its_socket_says_so_and_does_not_live_on():
    host = Host()

    def story(disk: SmallDisk) -> None:
        disk.fill_inodes()
        server = RpcServer(host.paths.broker_socket, lambda *_: None, lambda caller: True)
        with pytest.raises(SocketProblem, match=str(host.paths.run_dir)):
            server.reserve()
            server.start()
        disk.empty()
        server = RpcServer(host.paths.broker_socket, lambda *_: None, lambda caller: True)
        server.reserve()
        server.start()
        server.stop(1.0)

    try:
        with_small_disk(host.paths.run_dir, story)
    finally:
        host.close()


def test_a_log_file_on_a_full_disk_costs_its_lines_and_nothing_else(tmp_path, capfd):
    root = logging.getLogger()
    before = (list(root.handlers), root.level)

    def story(disk: SmallDisk) -> None:
        conf = disk.path / "log.conf"
        conf.write_text(
            "[loggers]\nkeys=root\n[handlers]\nkeys=file\n[formatters]\nkeys=\n"
            "[logger_root]\nlevel=INFO\nhandlers=file\n"
            f"[handler_file]\nclass=FileHandler\nargs=('{disk.path}/daemon.log',)\n"
        )
        disk.fill()
        setup_logging("test", conf)
        for number in range(3):
            logging.getLogger("ovirt_he_ha.test").error("line %d", number)
        assert finish_logging(5.0)

    try:
        with_small_disk(tmp_path, story)
    finally:
        for handler in set(root.handlers) - set(before[0]):
            handler.close()
        root.handlers[:], root.level = before
    assert "line 2" in capfd.readouterr().err
