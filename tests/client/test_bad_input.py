"""The public API when nothing is as it should be: each call ends in time with the error that its description names."""

import errno
import socket
import threading

import pytest

from ovirt_he_ha.client import HAClient, UnsafeError, ha_client
from ovirt_he_ha.client.ha_client import CONNECT_TIMEOUT
from ovirt_he_ha.client.link import BrokerError, BrokerUnavailable
from ovirt_he_ha.client.shared_config import SharedConfigError
from ovirt_he_ha.client.socket_errors import BrokerSocketError
from ovirt_he_ha.config.paths import HostPaths
from ovirt_he_ha.config.text import ConfigError
from ovirt_he_ha.core.slot import encode_global
from tests.client.deployed import record
from tests.own_time import OwnTime

ASKING = {
    "all": lambda client, timeout: client.get_all_stats(timeout=timeout),
    "hosts": lambda client, timeout: client.get_all_host_stats(timeout),
    "global": lambda client, timeout: client.get_all_stats("GLOBAL", timeout),
    "score": lambda client, timeout: client.get_local_host_score(timeout=timeout),
    "flag": lambda client, timeout: client.set_global_md_flag("maintenance", True, timeout=timeout),
    "mode": lambda client, timeout: client.set_maintenance_mode("GLOBAL", True, timeout=timeout),
    "reset": lambda client, timeout: client.reset_lockspace(timeout=timeout),
    "forced reset": lambda client, timeout: client.reset_lockspace(force=True, timeout=timeout),
}
asking = pytest.mark.parametrize("call", ASKING.values(), ids=ASKING.keys())


def test_what_the_package_offers():
    assert HAClient is ha_client.HAClient
    assert issubclass(UnsafeError, Exception)
    with pytest.raises(ImportError):
        from ovirt_he_ha.client import Nothing  # noqa: F401
    assert CONNECT_TIMEOUT == 900
    assert (HAClient.StatModes.ALL, HAClient.StatModes.HOST, HAClient.StatModes.GLOBAL) == ("ALL", "HOST", "GLOBAL")
    modes = HAClient.MaintenanceMode
    assert (modes.GLOBAL, modes.LOCAL, modes.LOCAL_MANUAL) == ("GLOBAL", "LOCAL", "LOCAL_MANUAL")
    assert HAClient.GlobalMdFlags.MAINTENANCE == "maintenance"


# --- a broker that is not there -----------------------------------------------------------------------------------


def no_socket(path):
    return None


def nobody_listens(path):
    bound = socket.socket(socket.AF_UNIX)
    bound.bind(str(path))
    return bound


def no_directory(path):
    path.parent.rmdir()
    path.parent.write_text("")


def breaks_off(path):
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen(8)

    def run():
        while True:
            try:
                peer, _address = listener.accept()
            except OSError:
                return  # the test is over
            peer.recv(65536)
            peer.close()

    threading.Thread(target=run, daemon=True).start()
    return listener


@asking
@pytest.mark.parametrize(
    ("prepare", "kind", "number"),
    [
        (no_socket, FileNotFoundError, errno.ENOENT),
        (nobody_listens, ConnectionRefusedError, errno.ECONNREFUSED),
        (no_directory, OSError, errno.ENOTDIR),
        (breaks_off, ConnectionResetError, errno.ECONNRESET),
    ],
)
def test_broker_down(host, call, prepare, kind, number):
    kept = prepare(host.paths.broker_socket)
    try:
        with pytest.raises(kind) as caught:
            call(host.client, 5)
    finally:
        if kept is not None:
            kept.shutdown(socket.SHUT_RDWR) if prepare is breaks_off else None
            kept.close()
    assert caught.value.errno == number
    assert isinstance(caught.value, BrokerUnavailable)
    assert str(host.paths.broker_socket) in str(caught.value)


@asking
def test_broker_silent(served, call):
    hold = threading.Event()
    for method in ("get_stats", "put_stats", "reset_lockspace"):
        served.broker.answers[method] = lambda: hold.wait(20)
    took = OwnTime()
    try:
        with pytest.raises(socket.timeout) as caught:
            call(served.client, 0.3)
    finally:
        hold.set()
    assert took.seconds < 2
    assert isinstance(caught.value, BrokerSocketError)
    assert caught.value.code == "overdue"


# --- a broker that lies -------------------------------------------------------------------------------------------

GARBAGE = [
    *(
        ("all", "get_stats", answer)
        for answer in (
            None,
            True,
            5,
            "text",
            [],
            {"x": b""},
            {"1": "text"},
            {"1": None},
            {"-1": b""},
            {"2001": b""},
            {"9" * 5000: b""},
        )
    ),
    *(("hosts", "is_host_alive", answer) for answer in (None, True, 1, "1", {}, ["1"], [True], [[1]], [1.5], [None])),
    *(("mode", "put_stats", answer) for answer in (None, True, 1, "", "no", ["ok"])),
    *(("forced reset", "reset_lockspace", answer) for answer in (None, False, "ignored", {})),
    ("reset", "get_stats", {"1": "text"}),
    ("score", "is_host_alive", None),
]


@pytest.mark.parametrize(("call", "method", "answer"), GARBAGE, ids=range(len(GARBAGE)))
def test_wrong_shapes(served, call, method, answer):
    served.broker.slots = {0: encode_global(True), 1: record(1, stopped=True)}
    served.broker.answers[method] = answer
    with pytest.raises(BrokerUnavailable) as caught:
        ASKING[call](served.client, 5)
    assert caught.value.code == "garbage"
    assert not isinstance(caught.value, OSError)
    assert served.broker.resets == 0


def test_ovirts_broker_in_the_first_minute(served):
    served.broker.slots = {1: record(1)}
    served.broker.answers["is_host_alive"] = ""
    assert served.client.get_all_host_stats()[1]["live-data"] is False


@pytest.mark.parametrize(
    "data",
    [b"", b"\0" * 4096, b"1", b"\xff" * 512, b"x" * 9000, record(2), b"2|2|new".ljust(4096, b"\0"), record(1)[:60]],
    ids=range(8),
)
def test_one_bad_slot_is_one_host(served, data):
    served.broker.slots = {0: b"?" * 5000, 1: data, 3: record(3)}
    served.broker.alive = [1, 3, 3, 4]
    assert sorted(served.client.get_all_stats()) == [3]
    assert served.client.get_local_host_score() == 0


# --- arguments ----------------------------------------------------------------------------------------------------


@asking
@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf"), "5", True, [], b"1"])
def test_no_timeout(served, call, timeout):
    with pytest.raises(ValueError, match="timeout"):
        call(served.client, timeout)
    assert served.broker.calls == []


@pytest.mark.parametrize(
    "call",
    [
        lambda client: client.get_all_stats("all"),
        lambda client: client.get_all_stats(None),
        lambda client: client.get_all_stats_direct(""),
        lambda client: client.set_global_md_flag("", True),
        lambda client: client.set_global_md_flag(None, True),
        lambda client: client.set_global_md_flag("maintenance", None),
        lambda client: client.set_global_md_flag("maintenance", "maybe"),
        lambda client: client.set_global_md_flag("maintenance", []),
        lambda client: client.set_maintenance_mode("local", True),
        lambda client: client.set_maintenance_mode(None, True),
        lambda client: client.set_maintenance_mode("LOCAL", None),
        lambda client: client.set_maintenance_mode("LOCAL_MANUAL", "perhaps"),
        lambda client: client.connect_storage_server(0),
        lambda client: client.connect_storage_server(None),
        lambda client: client.disconnect_storage_server(-1),
    ],
    ids=range(15),
)
def test_no_such_argument(served, call):
    with pytest.raises(ValueError):
        call(served.client)
    assert served.broker.calls == []
    assert not served.paths.ha_conf.exists()


@pytest.mark.parametrize("value", [None, 5, b"x", ["x"], "a\nb", "a\0b", "a\n", "a\x0cb", "a\x85b", "a\u2028vmid=b"])
def test_no_such_value(host, value):
    before = host.paths.hosted_engine_conf.read_text()
    with pytest.raises(SharedConfigError) as caught:
        host.client.set_shared_config("gateway", value, "he_local")
    assert caught.value.code == "value"
    assert host.paths.hosted_engine_conf.read_text() == before


# --- a host that is not deployed ----------------------------------------------------------------------------------

NOT_DEPLOYED = [
    (lambda client: client.get_all_stats(), FileNotFoundError),
    (lambda client: client.get_all_stats_direct(), ConfigError),
    (lambda client: client.get_all_host_stats_direct(), ConfigError),
    (lambda client: client.get_local_host_id(), None),
    (lambda client: client.get_local_host_score(), FileNotFoundError),
    (lambda client: client.set_global_md_flag("maintenance", True), FileNotFoundError),
    (lambda client: client.set_maintenance_mode("GLOBAL", True), FileNotFoundError),
    (lambda client: client.set_maintenance_mode("LOCAL", True), (ConfigError, OSError)),
    (lambda client: client.set_maintenance_mode("LOCAL_MANUAL", False), (ConfigError, OSError)),
    (lambda client: client.is_deployed(), False),
    (lambda client: client.get_shared_config("fqdn"), ConfigError),
    (lambda client: client.get_shared_config("fqdn", "he_local"), ConfigError),
    (lambda client: client.set_shared_config("fqdn", "x", "he_shared"), ConfigError),
    (lambda client: client.get_all_config_keys(), ConfigError),
    (lambda client: client.get_all_config_keys("other"), SharedConfigError),
    (lambda client: client.get_all_config_keys("vm"), {}),
    (lambda client: client.reset_lockspace(), None),
    (lambda client: client.reset_lockspace(force=True), None),
    (lambda client: client.connect_storage_server(), ConfigError),
    (lambda client: client.disconnect_storage_server(), None),
]


@pytest.mark.parametrize(("call", "outcome"), NOT_DEPLOYED, ids=range(len(NOT_DEPLOYED)))
def test_not_deployed(tmp_path, call, outcome):
    client = HAClient(paths=HostPaths(tmp_path))
    if outcome is None or outcome is False or outcome == {}:
        assert call(client) == outcome
        return
    with pytest.raises(outcome):
        call(client)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (b"host_id=0", None),
        (b"host_id=2000", 2000),
        (b"host_id=2001", None),
        (b"host_id=-1", None),
        (b"host_id=None", None),
        (b"host_id=1\xff", None),
        ("host_id=\u0661".encode(), None),
        (b"\0" * (1 << 21), None),
    ],
    ids=range(8),
)
def test_host_id_of_any_file(host, text, found):
    host.paths.hosted_engine_conf.write_bytes(text)
    assert host.client.get_local_host_id() == found


def test_arguments_of_other_versions_are_ignored(host):
    assert HAClient(True, paths=host.paths, something="else", timeout=3).get_local_host_id() == 1


def test_every_error_of_the_broker_is_caught_as_one(host):
    with pytest.raises(BrokerError):
        host.client.get_all_stats()
