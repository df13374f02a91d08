"""The public API against a broker on fakes, and the configuration by type against real files."""

import pytest

from ovirt_he_ha.client import shared_config
from ovirt_he_ha.client.ha_client import HAClient, UnsafeError
from ovirt_he_ha.client.link import BrokerFault
from ovirt_he_ha.client.shared_config import SharedConfig, SharedConfigError, replaced
from ovirt_he_ha.config.files import load_broker_conf, load_ha_conf, read_values
from ovirt_he_ha.config.text import ConfigError
from ovirt_he_ha.core.slot import encode_global
from ovirt_he_ha.storage.archive import build_archive, read_archive, write_archive
from ovirt_he_ha.storage.volumes import SCANNED
from tests.client.deployed import UUIDS, record

# --- statistics ---------------------------------------------------------------------------------------------------


def test_all_stats(served):
    served.broker.slots = {0: encode_global(True), 1: record(1), 2: record(2, maintenance=True), 3: b"\xff" * 4096}
    served.broker.alive = [1]
    stats = served.client.get_all_stats(timeout=5)
    assert sorted(stats) == [0, 1, 2]
    assert stats[0] == {"maintenance": True}
    assert list(stats[1]) == [
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
        "extra",
        "live-data",
    ]
    assert stats[1]["engine-status"] == '{"vm": "up", "health": "good", "detail": "Up"}'
    assert "state=EngineUp\n" in stats[1]["extra"]
    assert (stats[1]["live-data"], stats[2]["live-data"], stats[2]["maintenance"]) == (True, False, True)


def test_modes(served):
    served.broker.slots = {0: encode_global(False), 1: record(1)}
    assert sorted(served.client.get_all_host_stats()) == [1]
    assert served.client.get_all_stats(HAClient.StatModes.GLOBAL) == {0: {"maintenance": False}}
    with pytest.raises(ValueError, match="expected ALL, HOST, GLOBAL"):
        served.client.get_all_stats("other")


def test_nothing_published_yet(served):
    assert served.client.get_all_stats() == {}
    assert served.client.get_local_host_score() == 0


@pytest.mark.parametrize(("alive", "score"), [([1, 2], 3400), ([2], 0), ([], 0)])
def test_own_score_counts_only_live(served, alive, score):
    served.broker.slots = {1: record(1), 2: record(2)}
    served.broker.alive = alive
    assert served.client.get_local_host_score() == score


def test_without_a_broker_the_sockets_error_comes_out(host):
    with pytest.raises(FileNotFoundError):
        host.client.get_all_stats(timeout=5)


def test_stats_past_the_broker(host):
    path = host.volume("metadata", SCANNED)
    data = bytearray(path.read_bytes())
    data[4096:8192] = record(1)
    data[2000 * 4096 : 2001 * 4096] = record(2000)
    path.write_bytes(data)
    assert sorted(host.client.get_all_host_stats_direct()) == [1, 2000]
    assert "live-data" not in host.client.get_all_stats_direct()[1]


@pytest.mark.parametrize(("text", "found"), [("host_id=7", 7), ("host_id=x", None), ("", None), (None, None)])
def test_local_host_id(host, text, found):
    path = host.paths.hosted_engine_conf
    path.unlink() if text is None else path.write_text(text)
    assert host.client.get_local_host_id() == found
    assert host.client.is_deployed() is (text is not None)


# --- maintenance --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("value", "flag"), [(True, b"1"), (False, b"0"), ("True", b"1"), ("0", b"0"), (1, b"1")])
def test_global_maintenance(served, value, flag):
    served.client.set_maintenance_mode(HAClient.MaintenanceMode.GLOBAL, value, timeout=5)
    assert served.broker.slots[0].rstrip(b"\0") == b"maintenance=" + flag


def test_local_maintenance(host):
    host.client.set_maintenance_mode(HAClient.MaintenanceMode.LOCAL, True)
    assert (load_ha_conf(host.paths.ha_conf).local_maintenance, load_ha_conf(host.paths.ha_conf).manual) == (
        True,
        False,
    )
    host.client.set_maintenance_mode(HAClient.MaintenanceMode.LOCAL_MANUAL, True)
    assert load_ha_conf(host.paths.ha_conf).manual
    host.client.set_maintenance_mode(HAClient.MaintenanceMode.LOCAL, False)
    assert load_ha_conf(host.paths.ha_conf).maintenance


@pytest.mark.parametrize(
    "call",
    [
        lambda client: client.set_maintenance_mode("other", True),
        lambda client: client.set_maintenance_mode("GLOBAL", "maybe"),
        lambda client: client.set_global_md_flag("other", True),
    ],
)
def test_refused_maintenance(served, call):
    with pytest.raises(ValueError):
        call(served.client)
    assert served.broker.slots == {}


def test_faults_come_out(served, monkeypatch):
    monkeypatch.setattr(served.broker, "slots", None)
    with pytest.raises(BrokerFault):
        served.client.get_all_stats()


# --- lockspace ----------------------------------------------------------------------------------------------------


def test_reset_of_a_cluster_at_rest(served):
    served.broker.slots = {0: encode_global(True), 1: record(1, stopped=True)}
    served.client.reset_lockspace()
    assert served.broker.resets == 1


@pytest.mark.parametrize(
    "slots",
    [
        {0: encode_global(False), 1: record(1, stopped=True)},
        {1: record(1, stopped=True)},
        {0: encode_global(True), 1: record(1)},
        {0: encode_global(True), 1: record(1, stopped=True), 2: b"\xff" * 4096},
    ],
)
def test_reset_that_is_unsafe(served, slots):
    served.broker.slots = slots
    with pytest.raises(UnsafeError):
        served.client.reset_lockspace()
    assert served.broker.resets == 0
    served.client.reset_lockspace(force=True)
    assert served.broker.resets == 1


def test_reset_on_a_host_that_is_not_deployed(host):
    host.paths.hosted_engine_conf.unlink()
    host.client.reset_lockspace()


def test_connecting_a_directory(host):
    with pytest.raises(RuntimeError, match=UUIDS["sdUUID"]):
        host.client.connect_storage_server()
    host.volume("metadata", 4096)
    host.client.connect_storage_server(60)
    host.client.disconnect_storage_server(60)


# --- configuration by type ----------------------------------------------------------------------------------------


@pytest.fixture
def shared(host, monkeypatch):
    monkeypatch.setattr(shared_config, "SETTLE", 0.001)
    members = {
        "version": b"0.1.0",
        "fhanswers.conf": b"[environment:default]\n",
        "hosted-engine.conf": b"# template\nfqdn=engine.example\nvmid=x\nconsole=vnc\n",
        "broker.conf": b"[email]\nsmtp-server=mail.example\nsmtp-port=25\n[notify]\nstate_transition=start\n",
        "vm.conf": b"vmId=x\n",
    }
    data = build_archive(members)
    path = host.volume("conf", 1 << 20)
    with path.open("r+b") as file:
        file.write(data)
    host.archive = path
    return host


@pytest.mark.parametrize(
    ("key", "kind", "value"),
    [
        ("gateway", None, ["192.0.2.1", "he_local"]),
        ("fqdn", "he_shared", ["engine.example", "he_shared"]),
        ("console", None, ["vnc", "he_shared"]),
        ("email.smtp-server", None, ["mail.example", "broker"]),
        ("local_maintenance", None, ["False", "ha"]),
        ("network_test", "he_local", ["", "he_local"]),
    ],
)
def test_get(shared, key, kind, value):
    assert shared.client.get_shared_config(key, kind) == value


@pytest.mark.parametrize(
    ("key", "kind", "code"),
    [("fqdn", None, "ambiguous"), ("fqdn", "vm", "read-only"), ("fqdn", "other", "unknown-type")],
)
def test_refused_types(shared, key, kind, code):
    with pytest.raises(SharedConfigError) as caught:
        shared.client.get_shared_config(key, kind)
    assert caught.value.code == code


@pytest.mark.parametrize(("key", "kind"), [("nothing", None), ("gateway", "he_shared"), ("smtp-server", "broker")])
def test_unknown_keys(shared, key, kind):
    with pytest.raises(KeyError):
        shared.client.get_shared_config(key, kind)


def test_set_each_type(shared):
    client = shared.client
    before = read_archive(shared.archive)
    client.set_shared_config("gateway", "192.0.2.9")
    client.set_shared_config("tcp_t_address", "192.0.2.8", "he_shared")
    client.set_shared_config("email.smtp-server", "other.example", "broker")
    client.set_shared_config("local_maintenance_manual", "yes", "ha")
    after = read_archive(shared.archive)
    assert read_values(shared.paths.hosted_engine_conf)["gateway"] == "192.0.2.9"
    assert after["hosted-engine.conf"] == before["hosted-engine.conf"] + b"tcp_t_address=192.0.2.8\n"
    assert load_broker_conf(shared.paths.broker_conf).smtp_server == "other.example"
    assert client.get_shared_config("email.smtp-server")[0] == "other.example"
    assert load_ha_conf(shared.paths.ha_conf).manual
    assert {name: after[name] for name in ("version", "fhanswers.conf", "vm.conf")} == {
        name: before[name] for name in ("version", "fhanswers.conf", "vm.conf")
    }
    assert shared.archive.stat().st_size == 1 << 20


@pytest.mark.parametrize(
    ("key", "value", "kind"), [("gateway", "a\nb", "he_local"), ("local_maintenance", "perhaps", "ha")]
)
def test_refused_values(shared, key, value, kind):
    with pytest.raises(SharedConfigError) as caught:
        shared.client.set_shared_config(key, value, kind)
    assert caught.value.code == "value"


def test_a_broker_setting_that_does_not_fit_is_not_stored(shared):
    before = read_archive(shared.archive)
    with pytest.raises(ConfigError):
        shared.client.set_shared_config("email.smtp-port", "many", "broker")
    assert read_archive(shared.archive) == before
    assert not shared.paths.broker_conf.exists()


def test_a_value_with_another_separator_stays_one_value(shared):
    """Of a file that somebody else wrote: U+2028 and a form feed end no line for a shell or for oVirt's own tools."""
    text = "fqdn=engine.example\nconsole=vnc\u2028fqdn=other\n# old:\x0cfqdn=other\ngateway=\r\n"
    write_archive(shared.archive, {**read_archive(shared.archive), "hosted-engine.conf": text.encode()})
    client = shared.client
    assert client.get_shared_config("fqdn", "he_shared")[0] == "engine.example"
    client.set_shared_config("gateway", "192.0.2.1", "he_shared")
    kept = read_archive(shared.archive)["hosted-engine.conf"].decode()
    assert kept == text.replace("gateway=\r\n", "gateway=192.0.2.1\n")


def test_all_keys(shared):
    keys = shared.client.get_all_config_keys()
    assert sorted(keys) == ["broker", "ha", "he_local", "he_shared"]
    assert "iscsi_paths_blacklist" in keys["he_local"]
    assert keys["ha"] == ["local_maintenance", "local_maintenance_manual"]
    assert SharedConfig(shared.paths).keys("vm") == {}


@pytest.mark.parametrize(
    ("text", "result"),
    [("", "k=v\n"), ("a=1\nk=0\n#k=2\nk = 1\nb=2", "a=1\nk=0\n#k=2\nk=v\nb=2\n"), ("kk=1\n", "kk=1\nk=v\n")],
)
def test_replaced(text, result):
    assert replaced(text, "k", "v") == result
