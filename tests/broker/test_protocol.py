"""The snapshot's struct, both ways, and what is refused."""

import string
import xmlrpc.client
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovirt_he_ha.broker import protocol
from ovirt_he_ha.core import model

words = st.text(
    alphabet=string.printable.replace("\r", "").replace("\x0b", "").replace("\x0c", "") + "é|ü☃", max_size=40
)
ages = st.none() | st.floats(min_value=0, max_value=1e9)
flags = st.booleans()
counts = st.integers(min_value=0, max_value=2**62)


def readings(values):
    known = st.builds(lambda value, age: model.Reading(value, age, ""), values, ages)
    codes = st.sampled_from(["not-yet", "overdue", "error"])
    return known | st.builds(lambda why, age: model.Reading(None, age, why), codes, ages)


engines = st.builds(
    model.EngineFacts,
    status=st.builds(
        model.EngineStatus, st.sampled_from(model.Vm), st.sampled_from(model.Health), detail=words, reason=words
    ),
    last_exit=st.sampled_from(model.Exit),
    exit_age=ages,
    uptime=ages,
    paused_for=ages,
    pause_reason=words,
    bad_for=ages,
    stalled_for=ages,
    guest_agent=st.none() | flags,
    pid=st.none() | counts,
    lease_defined=st.none() | flags,
    incoming=flags,
    outgoing=flags,
)
host_ids = st.integers(min_value=0, max_value=model.MAX_HOST_ID)
lockspace_states = readings(st.sampled_from(model.LockspaceState))
leases = st.builds(
    model.LeaseFacts,
    lockspace=lockspace_states,
    whiteboard=lockspace_states,
    hosts=readings(st.dictionaries(host_ids, st.sampled_from(model.HostLease), max_size=5)),
    owner=readings(st.builds(model.LeaseOwner, host_ids, counts, counts, counts)),
    own_generation=st.none() | counts,
    io_timeout=st.integers(1, 60),
    watchdog=st.integers(1, 600),
    watchdog_armed=st.none() | flags,
    reset_within=st.none() | st.floats(0, 1000),
    renewed_ago=st.none() | st.floats(0, 1000),
    owner_left=st.none() | counts,
    owner_left_for=st.none() | st.floats(0, 1000),
)
monitors = st.builds(
    model.Monitors,
    network=readings(st.floats(0, 1)),
    bridge=readings(flags),
    mem_free=readings(st.integers(0, 2**40)),
    cpu_load=readings(st.floats(0, 1)),
    storage_latency=readings(st.floats(0, 100)),
    engine=readings(engines),
)
snapshots = st.builds(
    protocol.BrokerSnapshot,
    serial=counts,
    host_id=host_ids,
    slots=st.dictionaries(host_ids, st.binary(min_size=16, max_size=16).map(lambda data: data * 256), max_size=4),
    slots_age=ages,
    storage=st.builds(protocol.StorageFacts, words, ages, words),
    monitors=monitors,
    leases=leases,
    publish=st.builds(protocol.PublishFacts, ages, flags, words),
    version=words,
)
values = st.recursive(
    st.none()
    | flags
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | words
    | st.binary(max_size=40),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=8,
)


@given(snapshots)
def test_a_snapshot_survives_the_wire(snapshot):
    struct = protocol.parse_answer(protocol.answer_bytes(protocol.pack_snapshot(snapshot)))
    assert protocol.unpack_snapshot(struct) == snapshot


@given(snapshots)
def test_a_folded_snapshot_is_the_same(snapshot):
    folded = protocol.fold(protocol.pack_snapshot(snapshot))
    assert folded.keys() == {"facts", "slots"}
    assert protocol.unpack_snapshot(protocol.parse_answer(protocol.answer_bytes(folded))) == snapshot


@given(snapshots, st.data())
def test_damaged_facts_are_a_snapshot_or_a_refusal(snapshot, data):
    folded = protocol.fold(protocol.pack_snapshot(snapshot))
    at = data.draw(st.integers(0, len(folded["facts"])))
    folded["facts"] = folded["facts"][:at] + data.draw(words) + folded["facts"][at + data.draw(st.integers(0, 9)) :]
    try:
        found = protocol.unpack_snapshot(folded)
    except protocol.ProtocolError:
        return
    assert isinstance(found, protocol.BrokerSnapshot)


@pytest.mark.parametrize(
    "facts", ["", "[]", "null", "{", 7, b"{}", '{"serial": NaN}', '{"serial": ' + "9" * 500_000 + "}", "[" * 100_000]
)
def test_refused_facts(facts):
    folded = protocol.fold(protocol.pack_snapshot(protocol.BrokerSnapshot()))
    folded["facts"] = facts
    with pytest.raises(protocol.ProtocolError):
        protocol.unpack_snapshot(folded)


@given(values)
def test_garbage_is_refused_and_nothing_else_happens(value):
    with pytest.raises(protocol.ProtocolError):
        protocol.unpack_snapshot(value)


def test_the_leases_version_crosses_and_an_older_broker_sends_none():
    owner = model.Reading.of(model.LeaseOwner(2, 9, 77, 12))
    struct = protocol.pack_snapshot(protocol.BrokerSnapshot(host_id=1, leases=model.LeaseFacts(owner=owner)))
    assert protocol.unpack_snapshot(struct).leases.owner.value.version == 12
    del struct["leases"]["owner"]["value"]["version"]
    assert protocol.unpack_snapshot(struct).leases.owner.value.version == 0


@given(snapshots, st.data())
def test_one_wrong_member_is_named(snapshot, data):
    struct = protocol.pack_snapshot(snapshot)
    key = data.draw(st.sampled_from(sorted(struct)))
    del struct[key]
    with pytest.raises(protocol.ProtocolError) as caught:
        protocol.unpack_snapshot(struct)
    assert caught.value.path == f"snapshot.{key}"


@given(snapshots, st.data())
def test_any_value_in_any_member_gives_a_snapshot_or_a_refusal(snapshot, data):
    struct = protocol.pack_snapshot(snapshot)
    key = data.draw(st.sampled_from(sorted(struct)))
    struct[key] = data.draw(values)
    try:
        found = protocol.unpack_snapshot(struct)
    except protocol.ProtocolError:
        return
    assert isinstance(found, protocol.BrokerSnapshot)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("slots", zlib.compress(b"\0\2\0\0\0\1\0\0")),  # not ascending
        ("slots", zlib.compress(b"\0\1\0\0\0\1\0\0")),  # twice
        ("slots", zlib.compress(b"\x07\xd1\0\0")),  # host id 2001
        ("slots", zlib.compress(b"\0\1\x10\1" + b"x" * 4097)),  # longer than a slot
        ("slots", zlib.compress(b"\0\1\0\2x")),  # cut short
        ("slots", zlib.compress(b"\0\1\0")),
        ("slots", zlib.compress(b"\0\1\0\1x")[:-2]),  # cut short before it was packed
        ("slots", b"\0\1\0\1x"),  # not packed
        ("slots", zlib.compress(bytes(100_000_000))),  # would fill the memory
        ("slots", "text"),
        ("serial", -1),
        ("serial", 1.0),
        ("slots_age", float("nan")),
        ("io_timeout", "10"),
        ("leases", {}),
        ("engine", {"value": None, "age": None, "unknown": ""}),
        ("engine", {"value": None, "age": None, "unknown": 3}),
    ],
)
def test_refused_members(key, value):
    struct = protocol.pack_snapshot(protocol.BrokerSnapshot(slots={0: bytes(4096)}))
    struct[key] = value
    with pytest.raises(protocol.ProtocolError):
        protocol.unpack_snapshot(struct)


@pytest.mark.parametrize(
    "hosts",
    [
        {"live": "2,1"},
        {"live": "1,1"},
        {"live": "2-1"},
        {"live": "2001"},
        {"live": "1-99999"},
        {"live": "1-2-3"},
        {"live": ""},
        {"live": 1},
        {"live": "1", "dead": "1"},
        {"alive": "1"},
        ["1"],
    ],
)
def test_refused_hosts(hosts):
    struct = protocol.pack_snapshot(protocol.BrokerSnapshot())
    struct["leases"]["hosts"] = {"value": hosts, "age": 1.0, "unknown": ""}
    with pytest.raises(protocol.ProtocolError):
        protocol.unpack_snapshot(struct)


@given(st.dictionaries(host_ids, st.sampled_from(model.HostLease), max_size=80))
def test_hosts_as_ranges(hosts):
    packed = protocol.pack_snapshot(protocol.BrokerSnapshot(leases=model.LeaseFacts(hosts=model.Reading.of(hosts))))
    assert protocol.unpack_snapshot(packed).leases.hosts.value == hosts


def test_a_large_cluster_takes_little_room():
    leases = model.LeaseFacts(hosts=model.Reading.of({host_id: model.HostLease.LIVE for host_id in range(1, 2001)}))
    slots = {host_id: b"x" * 1000 + bytes(3096) for host_id in range(2001)}
    snapshot = protocol.BrokerSnapshot(slots=slots, leases=leases)
    packed = protocol.pack_snapshot(snapshot)
    assert packed["leases"]["hosts"]["value"] == {"live": "1-2000"}
    assert len(packed["slots"]) < 100_000
    assert protocol.unpack_snapshot(packed) == snapshot


def test_what_xml_cannot_carry_does_not_cost_the_snapshot():
    status = model.EngineStatus(model.Vm.UP, model.Health.BAD, "a\x00b\rc\ud800", "x" * 10000)
    facts = model.Monitors(
        network=model.Reading.of(float("nan")), engine=model.Reading.of(model.EngineFacts(status=status))
    )
    packed = protocol.pack_snapshot(protocol.BrokerSnapshot(monitors=facts))
    found = protocol.unpack_snapshot(protocol.parse_answer(protocol.answer_bytes(packed)))
    assert found.monitors.engine.value.status.detail == "a?b?c?"
    assert len(found.monitors.engine.value.status.reason) == 4096
    assert found.monitors.network == model.Reading.missing("error", 0.0)


def test_unknown_keys_are_ignored():
    struct = protocol.pack_snapshot(protocol.BrokerSnapshot())
    struct["from-the-future"] = 1
    assert protocol.unpack_snapshot(struct) == protocol.BrokerSnapshot()


# --- the codec under it -------------------------------------------------------------------------------------------


@given(st.lists(values, max_size=4))
def test_calls_survive_the_wire(args):
    assert protocol.parse_call(protocol.call_bytes("put_stats", tuple(args))) == ("put_stats", tuple(args))


@given(values)
def test_the_standard_library_reads_our_answers(value):
    body = protocol.answer_bytes(value)
    assert xmlrpc.client.loads(body, use_builtin_types=True)[0][0] == value


@given(st.lists(values.filter(lambda value: _has_no_i8(value)), max_size=4))
def test_we_read_the_calls_of_the_standard_library(args):
    body = xmlrpc.client.dumps(tuple(args), "put_stats", allow_none=True)
    assert protocol.parse_call(body.encode()) == ("put_stats", tuple(args))


@given(values.filter(lambda value: _has_no_i8(value)))
def test_we_read_the_answers_of_the_standard_library(value):
    body = xmlrpc.client.dumps((value,), methodresponse=True, allow_none=True)
    assert protocol.parse_answer(body.encode()) == value


def _has_no_i8(value):
    """The standard library sends none."""
    if isinstance(value, dict):
        return _has_no_i8(list(value.values()))
    if isinstance(value, list):
        return all(_has_no_i8(item) for item in value)
    return not isinstance(value, int) or abs(value) < 2**31


@given(st.integers(), words)
def test_faults(code, text):
    with pytest.raises(protocol.WireFault) as caught:
        protocol.parse_answer(xmlrpc.client.dumps(xmlrpc.client.Fault(code % 1000, text)).encode())
    assert (caught.value.code, caught.value.message) == (code % 1000, text)
    with pytest.raises(xmlrpc.client.Fault) as theirs:
        xmlrpc.client.loads(protocol.fault_bytes(code % 1000, text))
    assert (theirs.value.faultCode, theirs.value.faultString) == (code % 1000, text)


@pytest.mark.parametrize(
    "value",
    [
        b"bare text",
        b"",
        b"<string/>",
        b"<ex:nil xmlns:ex='http://ws.apache.org/xmlrpc/namespaces/extensions'/>",
        b"<array><data/></array>",
        b"<struct/>",
        b" <int> 7 </int> ",
        b"<base64>eA==</base64>",
        b"<base64>\nbWFpbnRlbmFu\r\n\tY2U9MQ==\n</base64>",
        b"<base64/>",
        b"<struct><member><name>a&amp;b</name><value>x</value></member></struct>",
    ],
    ids=range(11),
)
def test_values_as_other_clients_write_them(value):
    expected = xmlrpc.client.loads(CALL % value, use_builtin_types=True)
    assert protocol.parse_call(CALL % value) == (expected[1], expected[0])


@pytest.mark.parametrize(
    "fault",
    [
        b"<string>x</string>",
        b"<struct/>",
        b"<array><data/></array>",
        b"<struct><member><name>a</name></member></struct>",
    ],
    ids=range(4),
)
def test_faults_without_code_and_text_are_garbage(fault):
    with pytest.raises(protocol.WireError):
        protocol.parse_answer(b"<methodResponse><fault><value>%s</value></fault></methodResponse>" % fault)


def test_what_nests_without_end_is_not_sent():
    endless = []
    endless.append(endless)
    with pytest.raises(protocol.WireError):
        protocol.answer_bytes(endless)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_call_or_a_wire_error(data):
    with pytest.raises(protocol.WireError):
        protocol.parse_call(data)


@given(st.binary(max_size=30), st.integers(min_value=0, max_value=400))
def test_damaged_calls_are_a_call_or_a_wire_error(noise, position):
    body = protocol.call_bytes("put_stats", (1, b"abc", {"a": [1, 2.5, None]}))
    try:
        method, args = protocol.parse_call(body[:position] + noise + body[position + len(noise) :])
    except protocol.WireError:
        return
    assert isinstance(method, str)
    assert isinstance(args, tuple)


BOMB = b"""<?xml version='1.0'?><!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;">]>
<methodCall><methodName>notify</methodName><params><param><value>&b;</value></param></params></methodCall>"""
CALL = b"<methodCall><methodName>m</methodName><params><param><value>%s</value></param></params></methodCall>"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<methodCall/>",
        b"<methodCall><methodName/></methodCall>",
        BOMB,
        b"<!DOCTYPE methodCall SYSTEM 'file:///etc/passwd'>" + CALL % b"x",
        CALL % (b"<int>" + b"9" * 900_000 + b"</int>"),
        CALL % b"<int>x</int>",
        CALL % b"<i8>9223372036854775808</i8>",
        CALL % b"<double>nan</double>",
        CALL % b"<double>1e999</double>",
        CALL % b"<base64>!</base64>x<base64>a</base64>",
        CALL % b"<base64>!!!!</base64>",
        CALL % b"<base64>bWFpbnRlbmFuY2U9MQ==!</base64>",
        CALL % b"<boolean>7</boolean>",
        CALL % b"<dateTime.iso8601>20260101T00:00:00</dateTime.iso8601>",
        CALL % b"<struct><member><value>1</value></member></struct>",
        CALL % b"<struct><member><value>1</value><value>2</value><value><int>3</int></value></member></struct>",
        CALL % b"<struct><member><name/><value><int>3</int></value><value><int>3</int></value></member></struct>",
        CALL % b"<struct><member><value><int>3</int></value><value>1</value></member></struct>",
        CALL % b"<object/>",
        CALL % (b"<array><data><value>" * 40 + b"</value></data></array>" * 40),
        b"<methodResponse><params><param><value>1</value></param></params></methodResponse>",
        b"<methodResponse><fault><value><int>1</int></value></fault></methodResponse>",
        "<methodCall/>".encode("utf-16"),
        b"<?xml version='1.0' encoding='klingon'?>" + CALL % b"x",
    ],
    ids=range(25),
)
def test_refused_bodies(body):
    with pytest.raises(protocol.WireError):
        protocol.parse_call(body)


@pytest.mark.parametrize(
    ("value", "tag"), [(2**31, b"<i8>"), (-(2**31), b"<i8>"), (2**31 - 1, b"<int>"), (1 - 2**31, b"<int>")]
)
def test_width_of_integers(value, tag):
    assert tag in protocol.call_bytes("m", (value,))


@pytest.mark.parametrize("value", [2**63, object(), {1: 2}, float("inf")])
def test_values_that_cannot_be_sent(value):
    if isinstance(value, float):
        with pytest.raises(protocol.WireError):
            protocol.parse_answer(protocol.answer_bytes(value))
    else:
        with pytest.raises(protocol.WireError):
            protocol.answer_bytes(value)
