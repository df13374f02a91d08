import fcntl
import os
import stat
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovirt_he_ha.config import files, text
from ovirt_he_ha.config.files import (
    AgentConf,
    BrokerConf,
    ConfigError,
    HaConf,
    atomic_write,
    load_agent_conf,
    load_broker_conf,
    load_ha_conf,
    load_hosted_engine_conf,
    read_values,
    save_ha_conf,
)
from ovirt_he_ha.config.schema import BLANK_UUID, HOSTED_ENGINE_KEYS

UUIDS = [f"{number:08x}-0000-4000-8000-000000000000" for number in range(1, 20)]

GOOD = {
    "fqdn": "engine.example.org",
    "vmid": UUIDS[0],
    "host_id": "1",
    "sdUUID": UUIDS[1],
    "spUUID": BLANK_UUID,
    "domainType": "local",
    "storage": "/srv/domain",
    "vm_disk_id": UUIDS[2],
    "vm_disk_vol_id": UUIDS[3],
    "metadata_image_UUID": UUIDS[4],
    "metadata_volume_UUID": UUIDS[5],
    "lockspace_image_UUID": UUIDS[6],
    "lockspace_volume_UUID": UUIDS[7],
    "conf_image_UUID": UUIDS[8],
    "conf_volume_UUID": UUIDS[9],
    "bridge": "ovirtmgmt",
    "gateway": "192.0.2.1",
}


def written(tmp_path, values, name="hosted-engine.conf"):
    path = tmp_path / name
    path.write_text("".join(f"{key}={value}\n" for key, value in values.items()))
    return path


def with_keys(tmp_path, **changes):
    values = {**GOOD, **changes}
    return written(tmp_path, {key: value for key, value in values.items() if value is not None})


class TestHostedEngineConf:
    def test_a_good_file(self, tmp_path):
        conf = load_hosted_engine_conf(with_keys(tmp_path))
        assert conf.host_id == 1
        assert conf.sd_uuid == UUIDS[1]
        assert conf.lockspace_volume_uuid == UUIDS[7]
        assert conf.network_test == "ping"
        assert conf.configured
        assert conf.tcp_t_port is None
        assert conf.values["bridge"] == "ovirtmgmt"

    def test_last_occurrence_comments_spaces_and_lines_without_sign(self, tmp_path):
        path = with_keys(tmp_path)
        path.write_text(path.read_text() + "# host_id=9\n  host_id =  7 \nnonsense\n\nstorage=/a=b\n")
        conf = load_hosted_engine_conf(path)
        assert conf.host_id == 7
        assert conf.storage == "/a=b"

    def test_none_is_unset(self, tmp_path):
        conf = load_hosted_engine_conf(with_keys(tmp_path, mnt_options="None", spUUID="None", tcp_t_port="None"))
        assert conf.mnt_options == ""
        assert conf.sp_uuid == BLANK_UUID
        assert conf.tcp_t_port is None

    @pytest.mark.parametrize("key", [key.name for key in HOSTED_ENGINE_KEYS if key.required])
    @pytest.mark.parametrize("value", [None, "", "None"])
    def test_a_missing_required_key_is_named(self, tmp_path, key, value):
        path = with_keys(tmp_path, **{key: value})
        with pytest.raises(ConfigError) as caught:
            load_hosted_engine_conf(path)
        assert (caught.value.key, caught.value.file) == (key, str(path))

    @pytest.mark.parametrize(
        ("key", "value"),
        [
            ("host_id", "0"),
            ("host_id", "2001"),
            ("host_id", "one"),
            ("host_id", "1.0"),
            ("host_id", "٣"),
            ("host_id", "9" * 5000),
            ("vmid", UUIDS[0][:-1]),
            ("sdUUID", "x" * 36),
            ("domainType", "posix"),
            ("storage", "relative/dir"),
            ("network_test", "arp"),
            ("fqdn", "two words"),
            ("fqdn", "-x"),
            ("fqdn", "2001:db8::x"),
            ("fqdn", "fe80::1%eth0"),
            ("fqdn", "[2001:db8::1"),
            ("fqdn", "[engine.test]"),
            ("tcp_t_port", "70000"),
            ("gateway", "a b"),
            ("gateway", "-1"),
            ("gateway", "%s"),
            ("conf", "vm.conf"),
        ],
    )
    def test_a_nonsense_value_is_named(self, tmp_path, key, value):
        with pytest.raises(ConfigError) as caught:
            load_hosted_engine_conf(with_keys(tmp_path, **{key: value}))
        assert caught.value.key == key
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 400

    @pytest.mark.parametrize("value", ["engine.test", "192.0.2.7", "2001:db8::7", "[2001:db8::7]"])
    def test_the_engine_has_a_name_or_an_address(self, tmp_path, value):
        conf = load_hosted_engine_conf(with_keys(tmp_path, fqdn=value))
        assert conf.fqdn == value.strip("[]")

    def test_the_old_layout_is_refused(self, tmp_path):
        with pytest.raises(ConfigError) as caught:
            load_hosted_engine_conf(with_keys(tmp_path, spUUID=UUIDS[12]))
        assert caught.value.key == "spUUID"

    @pytest.mark.parametrize(
        ("changes", "key"),
        [
            ({"gateway": None}, "gateway"),
            ({"network_test": "tcp"}, "tcp_t_address"),
            ({"network_test": "tcp", "tcp_t_address": "a.example"}, "tcp_t_port"),
            ({"domainType": "nfs", "storage": None}, "storage"),
        ],
    )
    def test_keys_that_others_require(self, tmp_path, changes, key):
        with pytest.raises(ConfigError) as caught:
            load_hosted_engine_conf(with_keys(tmp_path, **changes))
        assert caught.value.key == key

    @pytest.mark.parametrize(("value", "expected"), [("True", True), ("true", False), ("no", False)])
    def test_configured_is_exactly_true(self, tmp_path, value, expected):
        assert load_hosted_engine_conf(with_keys(tmp_path, configured=value)).configured is expected

    def test_the_password_is_not_shown(self, tmp_path):
        conf = load_hosted_engine_conf(with_keys(tmp_path, password="hunter2"))
        assert conf.password == "hunter2"
        assert "hunter2" not in repr(conf)

    @given(st.binary(max_size=300))
    def test_any_bytes_give_a_configuration_or_the_error(self, data):
        path = f"/dev/shm/he-test-{os.getpid()}.conf"
        try:
            with open(path, "wb") as file:
                file.write(data)
            for load in (load_hosted_engine_conf, load_agent_conf, load_broker_conf, load_ha_conf):
                try:
                    load(path)
                except ConfigError as error:
                    assert str(error).isprintable()
        finally:
            os.unlink(path)

    @given(st.sampled_from(sorted(GOOD)), st.text(max_size=60))
    def test_any_text_as_a_value(self, key, value):
        path = f"/dev/shm/he-test-{os.getpid()}.conf"
        try:
            with open(path, "w", encoding="utf-8", errors="replace") as file:
                file.write("".join(f"{name}={old}\n" for name, old in GOOD.items()) + f"{key}={value}\n")
            try:
                load_hosted_engine_conf(path)
            except ConfigError as error:
                assert error.file == path
        finally:
            os.unlink(path)


class TestFileItself:
    def test_missing(self, tmp_path):
        with pytest.raises(ConfigError) as caught:
            load_hosted_engine_conf(tmp_path / "absent")
        assert caught.value.key == ""
        assert os.listdir(tmp_path) == []

    @pytest.mark.parametrize("data", [b"", b"\n\n# only a comment\n", b"no sign at all\n"])
    def test_empty(self, tmp_path, data):
        path = tmp_path / "empty"
        path.write_bytes(data)
        with pytest.raises(ConfigError) as caught:
            load_hosted_engine_conf(path)
        assert caught.value.key == ""

    def test_a_directory_a_pipe_and_a_device_do_not_hang(self, tmp_path):
        os.mkfifo(tmp_path / "pipe")
        for path in (tmp_path, tmp_path / "pipe", "/dev/zero"):
            with pytest.raises(ConfigError):
                read_values(path)

    def test_not_utf8(self, tmp_path):
        path = tmp_path / "conf"
        path.write_bytes(b"fqdn=\xff\n")
        with pytest.raises(ConfigError) as caught:
            read_values(path)
        assert caught.value.found == "byte 0xff at offset 5"

    def test_too_large(self, tmp_path):
        path = tmp_path / "conf"
        path.write_bytes(b"#" * (text.MAX_SIZE + 1))
        with pytest.raises(ConfigError):
            read_values(path)

    def test_unreadable(self, tmp_path):
        loop = tmp_path / "loop"
        loop.symlink_to(loop)
        with pytest.raises(ConfigError):
            load_agent_conf(loop)
        with pytest.raises(ConfigError):
            load_ha_conf(loop)


class TestHaConf:
    @pytest.mark.parametrize("value", ["True", "t", "yes", "Y", "1", "10", "Tomato"])
    def test_true(self, tmp_path, value):
        path = written(tmp_path, {"local_maintenance": value})
        assert load_ha_conf(path) == HaConf(local_maintenance=True)
        assert load_ha_conf(path).maintenance

    @pytest.mark.parametrize("value", ["False", "f", "No", "n", "0", "None"])
    def test_false(self, tmp_path, value):
        assert not load_ha_conf(written(tmp_path, {"local_maintenance_manual": value})).maintenance

    @pytest.mark.parametrize("value", ["", "on", "off", "2", "-1", "wahr"])
    def test_anything_else_is_an_error(self, tmp_path, value):
        with pytest.raises(ConfigError) as caught:
            load_ha_conf(written(tmp_path, {"local_maintenance_manual": value}))
        assert caught.value.key == "local_maintenance_manual"

    def test_a_missing_file_is_no_maintenance(self, tmp_path):
        assert load_ha_conf(tmp_path / "ha.conf") == HaConf()

    def test_save_keeps_everything_else(self, tmp_path):
        path = tmp_path / "ha.conf"
        path.write_text("# a comment\nlocal_maintenance=True\nunknown = x\nlocal_maintenance=False\nodd line\n")
        os.chmod(path, 0o640)
        saved = save_ha_conf(path, local_maintenance=True, reason="new  disk\nfor host 2")
        assert saved == HaConf(local_maintenance=True, reason="new disk for host 2")
        assert path.read_text().splitlines() == [
            "# a comment",
            "local_maintenance=True",
            "unknown = x",
            "local_maintenance=True",
            "odd line",
            "local_maintenance_reason=new disk for host 2",
        ]
        assert stat.S_IMODE(path.stat().st_mode) == 0o640
        assert os.listdir(tmp_path) == ["ha.conf"]

    def test_save_makes_a_missing_file(self, tmp_path):
        path = tmp_path / "ha.conf"
        assert save_ha_conf(path, manual=True) == HaConf(manual=True)
        assert (path.stat().st_uid, path.stat().st_gid) == (tmp_path.stat().st_uid, tmp_path.stat().st_gid)

    @pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
    def test_the_owner_stays_when_root_writes(self, tmp_path):
        path = tmp_path / "ha.conf"
        path.write_text("")
        os.chown(path, 36, 36)
        save_ha_conf(path, manual=True)
        assert (path.stat().st_uid, path.stat().st_gid) == (36, 36)
        os.unlink(path)
        os.chown(tmp_path, 36, 36)
        save_ha_conf(path, manual=True)
        assert (path.stat().st_uid, path.stat().st_gid) == (36, 36)

    def test_a_file_that_does_not_parse_is_not_rewritten(self, tmp_path):
        path = tmp_path / "ha.conf"
        path.write_text("local_maintenance=perhaps\n")
        with pytest.raises(ConfigError):
            save_ha_conf(path, manual=True)
        assert path.read_text() == "local_maintenance=perhaps\n"

    def test_writers_exclude_each_other(self, tmp_path):
        path = tmp_path / "ha.conf"
        path.write_text("")
        writers = [
            threading.Thread(target=save_ha_conf, args=(path,), kwargs={key: value})
            for key, value in [("local_maintenance", True), ("manual", True), ("reason", "both")]
        ]
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join()
        assert load_ha_conf(path) == HaConf(True, True, "both")

    def test_a_lock_that_is_never_released_is_an_error(self, tmp_path, monkeypatch):
        monkeypatch.setattr(text, "LOCK_SECONDS", 0.1)
        path = tmp_path / "ha.conf"
        path.write_text("")
        with open(path) as holder:
            fcntl.flock(holder, fcntl.LOCK_EX)
            with pytest.raises(ConfigError):
                save_ha_conf(path, manual=True)
        assert path.read_text() == ""


class TestAtomicWrite:
    def test_a_failed_write_leaves_the_old_file(self, tmp_path, monkeypatch):
        path = tmp_path / "file"
        path.write_bytes(b"old")

        def full(_handle):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(text.os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            atomic_write(path, b"new")
        assert path.read_bytes() == b"old"
        assert os.listdir(tmp_path) == ["file"]

    def test_mode_and_link(self, tmp_path):
        (tmp_path / "real").write_bytes(b"old")
        (tmp_path / "link").symlink_to("real")
        atomic_write(tmp_path / "link", b"new", mode=0o600)
        assert (tmp_path / "link").is_symlink()
        assert (tmp_path / "real").read_bytes() == b"new"
        assert stat.S_IMODE((tmp_path / "real").stat().st_mode) == 0o600


class TestAgentConf:
    def test_absent_is_the_defaults(self, tmp_path):
        assert load_agent_conf(tmp_path / "agent.conf") == AgentConf()

    def test_values(self, tmp_path):
        path = tmp_path / "agent.conf"
        path.write_text(
            "[score]\nbase-score=100\ncpu-load-penalty-min = 0.5\n[fencing]\nallow-unfenced=yes\n"
            "[migration]\naddress=fd00::1\n[health]\nurl=https://x%y/\nca-file=/etc/ca.pem\n[libvirt]\nuri=None\n"
        )
        conf = load_agent_conf(path)
        assert conf.score.base_score == 100
        assert conf.score.cpu_min == 0.5
        assert conf.allow_unfenced
        assert conf.migration_address == "fd00::1"
        assert conf.health_url == "https://x%y/"
        assert conf.libvirt_uri == "qemu:///system"

    @pytest.mark.parametrize(
        ("content", "key"),
        [
            ("[score]\nbase-score=high\n", "[score] base-score"),
            ("[score]\nbase-score=3400.5\n", "[score] base-score"),
            ("[score]\nbase-score=-1\n", "[score] base-score"),
            ("[score]\nbase-skore=1\n", "[score] base-skore"),
            ("[score]\ncpu-load-penalty-max=nan\n", "[score] cpu-load-penalty-max"),
            ("[score]\ncpu-load-penalty-min=0.95\n", "[score] cpu-load-penalty-min"),
            ("[fencing]\nallow-unfenced=on\n", "[fencing] allow-unfenced"),
            ("[fense]\n", "[fense]"),
            ("[DEFAULT]\nbase-score=1\n", "[DEFAULT]"),
            ("base-score=1\n", "line 1"),
            ("[score]\nbase-score\n", "line 2"),
            ("[libvirt]\nuri=two words\n", "[libvirt] uri"),
            ("[migration]\naddress=a|b\n", "[migration] address"),
            ("[migration]\nuri=qemu:///system\n", "[migration] uri"),
            ("[migration]\nuri=qemu+tls://h1.example/session\n", "[migration] uri"),
        ],
    )
    def test_what_is_wrong_is_named(self, tmp_path, content, key):
        path = tmp_path / "agent.conf"
        path.write_text(content)
        with pytest.raises(ConfigError) as caught:
            load_agent_conf(path)
        assert caught.value.key == key

    def test_the_installed_file_is_the_defaults(self):
        installed = os.path.join(os.path.dirname(__file__), "../../etc/ovirt-hosted-engine-ha/agent.conf")
        assert load_agent_conf(installed) == AgentConf()


class TestBrokerConf:
    def test_absent_is_the_defaults(self, tmp_path):
        assert load_broker_conf(tmp_path / "broker.conf") == BrokerConf()

    def test_values(self, tmp_path):
        path = tmp_path / "broker.conf"
        path.write_text(
            "[email]\nsmtp-server=mail.example\nsmtp-port=587\ndestination-emails=a@x, b@x,\n"
            "[notify]\nstate_transition=migrate|up\nother=.*\n[future]\nkey=1\n"
        )
        conf = load_broker_conf(path)
        assert (conf.smtp_server, conf.smtp_port, conf.smtp_timeout) == ("mail.example", 587, 10)
        assert conf.destination_emails == ("a@x", "b@x")
        assert conf.notify == {"state_transition": "migrate|up", "other": ".*"}

    @pytest.mark.parametrize(
        ("content", "key"),
        [
            ("[email]\nsmtp-port=0\n", "[email] smtp-port"),
            ("[notify]\nstate_transition=(\n", "[notify] state_transition"),
            ("[notify]\nother=*\n", "[notify] other"),
        ],
    )
    def test_what_is_wrong_is_named(self, tmp_path, content, key):
        path = tmp_path / "broker.conf"
        path.write_text(content)
        with pytest.raises(ConfigError) as caught:
            load_broker_conf(path)
        assert caught.value.key == key


def test_every_key_of_the_schema_has_its_attribute():
    fields = set(files.HostedEngineConf.__dataclass_fields__)
    assert {key.attribute for key in HOSTED_ENGINE_KEYS} == fields - {"values"}
