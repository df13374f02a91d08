"""--history and --audit."""

import json
from dataclasses import replace
from datetime import datetime

import pytest

from ovirt_he_ha.cli import history
from ovirt_he_ha.cli.request import Refusal
from ovirt_he_ha.config.ledgers import older
from ovirt_he_ha.core.ledger import encode
from tests.cli.world import run
from tests.core.test_tenures import Cluster, story
from tests.core.test_tenures import run as live


def write(path, entries):
    path.write_bytes(b"".join(encode(entry) for entry in entries))
    return str(path)


def bring(host, cluster, directory):
    """Host 1's ledger where it belongs, the others' as copies."""
    write(host.paths.ledger, cluster.hosts[1].lines)
    return [write(directory / f"host{h}.jsonl", cluster.hosts[h].lines) for h in (2, 3) if cluster.hosts[h].lines]


def overlapping():
    cluster = Cluster()
    live(cluster, 1, 60.0, "")
    cluster.take(2)
    cluster.begins(2)
    for _ in range(3):
        cluster.lives(1, 10.0)
        cluster.lives(2, 0.0)
    return cluster


def test_history_lines_json_and_since(host):
    cluster = Cluster()
    story(cluster, [(1, 60.0, "stop")])
    lines = cluster.hosts[1].lines
    write(older(host.paths.ledger), lines[:2])
    write(host.paths.ledger, lines[2:])
    assert len(run("--history").out.splitlines()) == len(lines)
    found = run("--history", "--json").json["entries"]
    assert [each["number"] for each in found] == list(range(1, len(lines) + 1))
    assert found[0]["lease"]["version"] == 2
    assert run("--history", "--json", "--since=2h").json["entries"] == []
    assert len(run("--history", "--json", "--since", "2001-01-01T00:00Z").json["entries"]) == len(lines)


def test_a_host_without_a_ledger(host):
    assert run("--history").status == 0
    ran = run("--audit")
    assert ran.status == 1 and len(ran.err.splitlines()) == 1


@pytest.mark.parametrize("text", ["", "soon", "2x", "-1h", "99999999999h", "2024-13-01", "²h"])
def test_a_wrong_since_is_one_line(host, text):
    ran = run("--history", f"--since={text}")
    assert ran.status == 1 and len(ran.err.splitlines()) == 1 and not ran.out


def test_a_torn_line_is_skipped_and_named(host):
    cluster = Cluster()
    story(cluster, [(1, 60.0, "stop")])
    write(host.paths.ledger, cluster.hosts[1].lines)
    host.paths.ledger.write_bytes(host.paths.ledger.read_bytes()[:-20])
    ran = run("--history", "--json")
    assert ran.status == 0 and len(ran.json["skipped"]) == 1
    assert len(ran.json["entries"]) == len(cluster.hosts[1].lines) - 1


def test_an_audit_of_all_hosts_in_order(host, tmp_path):
    cluster = Cluster()
    story(cluster, [(1, 60.0, "stop"), (2, 60.0, "migrate"), (3, 60.0, "stop")])
    others = bring(host, cluster, tmp_path)
    assert run("--audit", *others).status == 0
    found = run("--audit", "--json", *others)
    assert found.status == 0 and found.json["verdict"] == "in-order" and found.json["hosts"] == [1, 2, 3]
    assert [each["proof"] for each in found.json["changes"]] == ["closed", "ordered"]


def test_an_overlap_is_shown_with_its_lines(host, tmp_path):
    others = bring(host, overlapping(), tmp_path)
    ran = run("--audit", *others)
    assert ran.status == 1 and ran.out.startswith("host 1") and "host 2 #1" in ran.out
    found = run(*others, "--json", "--audit")
    assert found.status == 1 and found.json["verdict"] == "overlap" and found.json["error"]["code"] == "overlap"
    assert {each["host-id"] for each in found.json["overlaps"][0]["lines"]} == {1, 2}


def test_an_overlap_says_where(host, tmp_path):
    """Both copies, under which versions, and the line that shows the one running while the record named the other."""
    others = bring(host, overlapping(), tmp_path)
    found = run("--audit", "--json", *others).json["overlaps"]
    (one,) = found
    assert one["code"] == "overlap" and "host 1" in one["text"] and "version 3" in one["text"]
    first, proof, last, other = one["lines"]
    assert (first["host-id"], first["kind"], first["lease"]["version"]) == (1, "vm", 2)
    assert (proof["host-id"], proof["lease"]["owner"], proof["lease"]["version"]) == (1, 2, 3)
    assert (last["host-id"], other["host-id"], other["values"]["vm"]) == (1, 2, "here")
    assert last["seen"] > proof["lease"]["at"] > first["monotonic"]
    shown = run("--audit", *others).out
    assert all(f"host {each['host-id']} #{each['number']}" in shown for each in one["lines"])


def test_a_ledger_that_was_not_given_is_not_proved(host, tmp_path):
    bring(host, overlapping(), tmp_path)
    ran = run("--audit", "--json")
    assert (ran.status, ran.json["verdict"]) == (3, "unproved") and "error" not in ran.json
    assert "no-ledger" in {each["code"] for each in ran.json["unproved"]}


def hole(lines):
    return [encode(each) for each in lines[:1] + lines[2:]]


def torn(lines):
    return [encode(lines[0]), encode(lines[1])[:-20] + b"\n", *map(encode, lines[1:])]


def from_a_later_version(lines):
    return [*map(encode, lines), encode(lines[-1]).replace(b'"k":"lease"', b'"k":"omen"').replace(b'"n":', b'"n":9')]


def without_version(lines):
    return [encode(replace(each, look=replace(each.look, version=0))) for each in lines]


@pytest.mark.parametrize(
    ("damage", "code"),
    [
        (hole, "lost-lines"),
        (torn, "unreadable-lines"),
        (from_a_later_version, "unreadable-lines"),
        (without_version, "no-version"),
    ],
)
def test_what_cannot_be_put_in_order_is_exit_3_and_says_what(host, tmp_path, damage, code):
    cluster = Cluster()
    story(cluster, [(1, 60.0, "stop"), (2, 60.0, "migrate"), (3, 60.0, "stop")])
    others = bring(host, cluster, tmp_path)
    assert run("--audit", *others).status == 0
    host.paths.ledger.write_bytes(b"".join(damage(cluster.hosts[1].lines)))
    ran = run("--audit", "--json", *others)
    assert (ran.status, ran.json["verdict"]) == (3, "unproved")
    assert {each["code"] for each in ran.json["unproved"]} == {code}
    shown = run("--audit", *others)
    assert shown.status == 3 and "Not proved: " in shown.out and shown.err == ""


def test_an_overlap_beside_damage_is_still_an_overlap(host, tmp_path):
    others = bring(host, overlapping(), tmp_path)
    with open(others[0], "ab") as file:
        file.write(b"{torn")
    ran = run("--audit", "--json", *others)
    assert (ran.status, ran.json["verdict"]) == (1, "overlap") and ran.json["unproved"]


def test_clocks_say_nothing(host, tmp_path):
    """Whatever the walls show, and however the hosts' own clocks lie to each other."""
    cluster = Cluster(offsets=(-9000.0, 0.0, 1e9))
    story(cluster, [(1, 60.0, "stop"), (2, 60.0, "migrate"), (3, 60.0, "stop")])
    for each in cluster.hosts.values():
        each.lines = [replace(line, wall=5e9 - line.number) for line in each.lines]
    others = bring(host, cluster, tmp_path)
    assert run("--audit", *others).status == 0


@pytest.mark.parametrize("what", ["missing", "noise", "empty", "directory", "long"])
def test_a_wrong_file_is_one_line(host, tmp_path, what):
    path = tmp_path / ("other" if what != "long" else "o" * 300)
    if what == "directory":
        path.mkdir()
    elif what not in ("missing", "long"):
        path.write_bytes(b"\0\xff{}\n" if what == "noise" else b"")
    ran = run("--audit", str(path))
    assert ran.status == 1 and len(ran.err.splitlines()) == 1 and str(path) in ran.err
    assert json.loads(run("--audit", "--json", str(path)).out)["error"]["code"] == "ledger-problem"


def test_a_ledger_of_garbage_alone_is_not_called_empty(host):
    host.paths.ledger.write_bytes(b"garbage\n\x00\xff\n")
    shown, ran = run("--history"), run("--audit", "--json")
    assert shown.status == 0 and "can be read" in shown.out and str(host.paths.ledger) in shown.err
    assert ran.status == 1 and str(host.paths.ledger) in ran.json["error"]["message"]


def test_a_time_without_a_day_is_the_last_one_that_was(monkeypatch):
    class Clock(datetime):
        @classmethod
        def now(cls, tz=None):
            return cls(2024, 5, 31, 3, 0, 30, tzinfo=tz)

    monkeypatch.setattr(history, "datetime", Clock)
    wanted = {"02:59": (31, 2, 59), "3:00": (31, 3, 0), "03:01": (30, 3, 1), "23:10": (30, 23, 10)}
    for text, (day, hour, minute) in wanted.items():
        assert history._since(text) == datetime(2024, 5, day, hour, minute).timestamp()
    for text in ("24:00", "14:60", "14", "14:0", "٣:00", " 14:00"):
        with pytest.raises(Refusal):
            history._since(text)
