"""--history and --audit."""

import json

import pytest

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


def test_a_ledger_that_was_not_given_is_not_proved(host, tmp_path):
    bring(host, overlapping(), tmp_path)
    assert run("--audit").status == 3


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
