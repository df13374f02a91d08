"""--get-shared-config and --set-shared-config."""

from io import StringIO
from pathlib import Path
from typing import Dict, Tuple

import pytest

from ovirt_he_ha.cli import configuration
from ovirt_he_ha.client import shared_config
from ovirt_he_ha.config.files import load_ha_conf, load_hosted_engine_conf, read_values
from ovirt_he_ha.storage.archive import build_archive, read_archive
from ovirt_he_ha.storage.local import LocalDomain
from tests.cli.world import World, run
from tests.client.no_lock import NoLock

MEMBERS = {
    "version": b"0.1.0",
    "fhanswers.conf": b"",
    "hosted-engine.conf": b"fqdn=engine.example\nconsole=vnc\n",
    "broker.conf": b"[email]\nsmtp-server=mail.example\nsmtp-port=25\n[notify]\nstate_transition=start\n",
    "vm.conf": b"vmId=x\n",
}


def archive_of(host: World) -> Path:
    conf = load_hosted_engine_conf(host.paths.hosted_engine_conf)
    domain = LocalDomain(conf.storage, conf.sd_uuid)
    return Path(domain.volume_path(conf.conf_image_uuid, conf.conf_volume_uuid))


@pytest.fixture
def shared(host: World, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr(shared_config, "SETTLE", 0.001)
    monkeypatch.setattr(shared_config, "ArchiveLock", NoLock)
    path = archive_of(host)
    path.parent.mkdir(parents=True)
    path.write_bytes(build_archive(MEMBERS).ljust(1 << 20, b"\0"))
    return host


def state(host: World) -> Tuple[str, Dict[str, bytes], bool]:
    return host.paths.hosted_engine_conf.read_text(), read_archive(str(archive_of(host))), host.paths.ha_conf.exists()


@pytest.mark.parametrize(
    ("words", "value", "kind"),
    [
        (("gateway",), "127.0.0.1", "he_local"),
        (("console",), "vnc", "he_shared"),
        (("fqdn", "--type=he_shared"), "engine.example", "he_shared"),
        (("--type", "he_local", "fqdn"), "engine.test", "he_local"),
        (("email.smtp-server",), "mail.example", "broker"),
        (("local_maintenance",), "False", "ha"),
        (("tcp_t_port", "--type=he_local"), "", "he_local"),
    ],
)
def test_get(shared: World, words: Tuple[str, ...], value: str, kind: str) -> None:
    ran = run("--get-shared-config", *words)
    assert (ran.status, ran.err) == (0, "")
    assert (
        ran.out
        == f"\n{next(w for w in words if w not in ('he_local',) and w[:2] != '--')} : {value}, type : {kind}\n\n"
    )
    assert run(*words, "--json", "--get-shared-config").json["value"] == value


def test_a_credential_comes_in_by_standard_input(shared: World, monkeypatch: pytest.MonkeyPatch) -> None:
    with shared.paths.hosted_engine_conf.open("a") as file:
        file.write("password=\n")
    monkeypatch.setattr("sys.stdin", StringIO("pass word-1234\n"))
    ran = run("--set-shared-config", "password", "-", "--type=he_local")
    assert ran.status == 0 and "1234" not in ran.out + ran.err
    assert load_hosted_engine_conf(shared.paths.hosted_engine_conf).password == "pass word-1234"
    for given in ("", "cut off"):
        monkeypatch.setattr("sys.stdin", StringIO(given))
        ran = run("--set-shared-config", "password", "-", "--type=he_local")
        assert ran.status == 1 and "cut off" not in ran.err
    assert load_hosted_engine_conf(shared.paths.hosted_engine_conf).password == "pass word-1234"


def test_set_prints_nothing_and_is_read_back(shared: World) -> None:
    for words in (
        ("gateway", "192.0.2.7"),
        ("console", "--type=he_shared", "qxl"),
        ("--type=broker", "email.smtp-port", "26"),
        ("local_maintenance_manual", "yes"),
    ):
        ran = run("--set-shared-config", *words)
        assert (ran.status, ran.out) == (0, ""), ran
    assert read_values(shared.paths.hosted_engine_conf)["gateway"] == "192.0.2.7"
    after = read_archive(str(archive_of(shared)))
    assert b"console=qxl" in after["hosted-engine.conf"] and b"smtp-port=26" in after["broker.conf"]
    assert load_ha_conf(shared.paths.ha_conf).manual


def test_setting_it_again_is_no_error(shared: World) -> None:
    for _ in range(2):
        assert run("--set-shared-config", "console", "qxl").status == 0


@pytest.mark.parametrize("verb", ["--get-shared-config", "--set-shared-config"])
def test_an_unknown_key_lists_the_known_ones(shared: World, verb: str) -> None:
    before = state(shared)
    ran = run(verb, "nothing", *(["x"] if verb.startswith("--set") else []))
    lines = ran.err.splitlines()
    assert ran.status == 1 and ran.out == "" and "nothing" in lines[0]
    assert [line.split(" : ")[0] for line in lines[1:]] == ["broker", "ha", "he_local", "he_shared"]
    assert "tcp_t_port" in lines[3] and "email.smtp-port" in lines[1]
    assert state(shared) == before


@pytest.mark.parametrize(
    "words",
    [
        ("--get-shared-config", "fqdn"),
        ("--get-shared-config", "fqdn", "--type=vm"),
        ("--get-shared-config", "fqdn", "--type=other"),
        ("--get-shared-config",),
        ("--get-shared-config", "fqdn", "surplus"),
        ("--set-shared-config", "fqdn"),
        ("--set-shared-config", "fqdn", "x"),
        ("--set-shared-config", "fqdn", "not a name", "--type=he_local"),
        ("--set-shared-config", "fqdn", "", "--type=he_local"),
        ("--set-shared-config", "host_id", "0", "--type=he_local"),
        ("--set-shared-config", "host_id", "many", "--type=he_local"),
        ("--set-shared-config", "sdUUID", "1-2-3", "--type=he_local"),
        ("--set-shared-config", "spUUID", "00000000-0000-0000-0000-000000000001", "--type=he_local"),
        ("--set-shared-config", "network_test", "telepathy", "--type=he_local"),
        ("--set-shared-config", "fqdn", "2001:db8:::7", "--type=he_local"),
        ("--set-shared-config", "fqdn", "[2001:db8::7]", "--type=he_local"),
        ("--set-shared-config", "fqdn", "fe80::7%eth0", "--type=he_local"),
        ("--set-shared-config", "fqdn", "192.0.2.256", "--type=he_local"),
        ("--set-shared-config", "network_test", "telepathy", "--type=he_shared"),
        ("--set-shared-config", "network_test", "tcp", "--type=he_local"),
        ("--set-shared-config", "tcp_t_port", "65536", "--type=he_local"),
        ("--set-shared-config", "storage", "relative", "--type=he_local"),
        ("--set-shared-config", "email.smtp-port", "many"),
        ("--set-shared-config", "notify.state_transition", "("),
        ("--set-shared-config", "local_maintenance", "perhaps"),
        ("--set-shared-config", "gateway", "two\nlines", "--type=he_local"),
    ],
)
def test_what_does_not_fit_is_one_line_and_changes_nothing(shared: World, words: Tuple[str, ...]) -> None:
    before = state(shared)
    ran = run(*words)
    assert ran.status == 1 and ran.out == "" and ran.err.count("\n") == 1
    assert state(shared) == before


def test_a_file_that_was_broken_may_be_mended(shared: World) -> None:
    shared.configure(host_id="many")
    assert run("--set-shared-config", "fqdn", "not a name", "--type=he_local").status == 1
    assert run("--set-shared-config", "fqdn", "other.example", "--type=he_local").status == 0
    assert run("--set-shared-config", "host_id", "1", "--type=he_local").status == 0
    load_hosted_engine_conf(shared.paths.hosted_engine_conf)


@pytest.mark.parametrize("content", [b"", b"\xff" * 20480, build_archive(MEMBERS)[:1500]])
def test_a_volume_that_holds_no_archive(shared: World, content: bytes) -> None:
    archive_of(shared).write_bytes(content.ljust(1 << 20, b"\0"))
    for words in (("--get-shared-config", "console"), ("--set-shared-config", "console", "qxl", "--type=he_shared")):
        ran = run(*words)
        assert ran.status == 1 and ran.err.count("\n") == 1
    assert archive_of(shared).read_bytes() == content.ljust(1 << 20, b"\0")
    assert run("--get-shared-config", "gateway", "--type=he_local").status == 0


def test_storage_that_hangs_stops_only_what_needs_it(shared: World, monkeypatch: pytest.MonkeyPatch) -> None:
    shared.hang_storage(monkeypatch)
    monkeypatch.setattr(configuration, "READ_SECONDS", 0.3)
    for words in (("--get-shared-config", "console"), ("--set-shared-config", "console", "qxl")):
        ran = run(*words)
        assert ran.status == 1 and "--type=he_local" in ran.err
    assert run("--set-shared-config", "gateway", "192.0.2.1", "--type=he_local").status == 0


def changed(host: World) -> Dict[str, bytes]:
    """The archive, after a change whose copy is kept."""
    assert run("--set-shared-config", "console", "qxl", "--type=he_shared").status == 0
    assert run("--set-shared-config", "email.smtp-port", "26").status == 0
    return read_archive(str(archive_of(host)))


def test_restore_undoes_the_last_change_and_itself(shared: World) -> None:
    after = changed(shared)
    ran = run("--restore-shared-config")
    assert (ran.status, ran.err) == (0, "")
    assert "broker.conf" in ran.out and "hosted-engine.conf" not in ran.out
    back = read_archive(str(archive_of(shared)))
    assert back == {**after, "broker.conf": back["broker.conf"]}
    assert b"smtp-port=25" in back["broker.conf"]
    assert shared.paths.broker_conf.read_bytes() == back["broker.conf"]  # what this host's broker reads
    assert run("--restore-shared-config", "--json").json == {"restored": ["broker.conf"]}
    assert read_archive(str(archive_of(shared))) == after


def test_restore_loses_no_change_of_a_tool_without_a_copy_unasked(shared: World) -> None:
    changed(shared)
    path = archive_of(shared)
    theirs = build_archive({**MEMBERS, "version": b"theirs"})
    with path.open("r+b") as file:
        file.write(theirs)
    ran = run("--restore-shared-config")
    assert (ran.status, ran.out) == (1, "") and "--force" in ran.err
    assert path.read_bytes().startswith(theirs)
    assert run("--restore-shared-config", "--force").status == 0
    assert read_archive(str(path))["version"] == b"0.1.0"


@pytest.mark.parametrize("damage", [bytes(512), b"\xff" * 20480])
def test_restore_mends_a_destroyed_archive(shared: World, damage: bytes) -> None:
    changed(shared)
    with archive_of(shared).open("r+b") as file:
        file.write(damage)
    assert run("--get-shared-config", "console").status == 1
    ran = run("--restore-shared-config")
    assert (ran.status, ran.err) == (0, "")
    assert read_archive(str(archive_of(shared)))["vm.conf"] == MEMBERS["vm.conf"]


def test_restore_without_a_copy(shared: World) -> None:
    before = archive_of(shared).read_bytes()
    ran = run("--restore-shared-config", "--json")
    assert (ran.status, ran.json["error"]["code"]) == (1, "no-copy")
    assert archive_of(shared).read_bytes() == before


@pytest.mark.parametrize("key", ["gateway", "tcp_t_address", "fqdn"])
@pytest.mark.parametrize("value", ["999.1.1.1", "1.2.3", "::g", "[2001:db8::1]", "1:2", "2001:db8::1::2"])
def test_what_looks_like_an_address_and_is_none(host: World, key: str, value: str) -> None:
    before = host.paths.hosted_engine_conf.read_bytes()
    ran = run("--set-shared-config", key, value, "--type=he_local")
    assert ran.status == 1 and ran.err.count("\n") == 1 and "2001:db8::1" in ran.err
    assert host.paths.hosted_engine_conf.read_bytes() == before


@pytest.mark.parametrize("value", ["2001:db8::1", "fe80::1%eth0", "192.0.2.1", "router.test", "10gw"])
def test_addresses_and_names(host: World, value: str) -> None:
    assert run("--set-shared-config", "gateway", value, "--type=he_local").status == 0
    assert f"gateway={value}\n" in host.paths.hosted_engine_conf.read_text()


@pytest.mark.parametrize("value", ["2001:db8::7", "192.0.2.7", "engine2.test"])
def test_the_engine_may_be_an_address(host: World, value: str) -> None:
    assert run("--set-shared-config", "fqdn", value, "--type=he_local").status == 0
    assert load_hosted_engine_conf(host.paths.hosted_engine_conf).fqdn == value
