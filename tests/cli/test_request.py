import errno
import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovirt_he_ha.cli.request import Refusal, Unknown, parse
from ovirt_he_ha.cli.verbs import FLAG, GONE, VERBS, Verb
from tests.cli.world import World, record, run


def test_options_in_any_position_and_both_spellings() -> None:
    expected = {"--mode": "local", "--reason": "disk swap"}
    spellings = (
        ["--set-maintenance", "--mode=local", "--reason=disk swap"],
        ["--mode=local", "--set-maintenance", "--reason", "disk swap"],
        ["--reason", "disk swap", "--mode", "local", "--set-maintenance"],
    )
    for words in spellings:
        request = parse(words)
        assert (request.verb, request.options) == ("--set-maintenance", expected)


@pytest.mark.parametrize(
    "words",
    [
        ["--vm-status", "--yaml"],
        ["--vm-status", "surplus"],
        ["--vm-status", "--json=yes"],
        ["--vm-status=1"],
        ["--vm-status", "--json", "--json"],
        ["--vm-start", "--vm-conf"],
        ["--vm-start", "--vm-conf", "--json"],
        ["--vm-start", "--vm-shutdown"],
        ["--vm-start", "--wait="],
    ],
)
def test_what_does_not_fit_is_refused(words: list) -> None:
    with pytest.raises(Refusal) as caught:
        parse(words)
    assert (caught.value.code, caught.value.status) == ("usage", 1)


def test_words_and_options_may_be_mixed() -> None:
    request = parse(["one.jsonl", "--audit", "two.jsonl", "--json"])
    assert (request.words, request.options) == (("one.jsonl", "two.jsonl"), {"--json": ""})
    assert parse(["--audit", "--", "--json"]).words == ("--json",)
    with pytest.raises(Refusal):
        parse(["--vm-status", "--", "--json"])


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> None:
    verb = Verb("version", "show", {"--wait": "[seconds]", "--type": "a|b", "--json": FLAG}, "x", words="key value")
    monkeypatch.setitem(VERBS, "--try", verb)


def test_a_value_that_may_be_left_out_is_given_by_the_equals_sign(table: None) -> None:
    request = parse(["--try", "--wait", "k", "v"])
    assert request.words == ("k", "v") and request.seconds("--wait", 9.0) == 9.0
    assert parse(["k", "--type", "a", "--wait=7", "v", "--try"]).seconds("--wait", 9.0) == 7.0
    assert parse(["--try", "k", ""]).seconds("--wait", 9.0) is None
    for wrong in ("0", "-1", "1.5", "1" * 9, "soon"):
        with pytest.raises(Refusal):
            parse(["--try", "k", "v", f"--wait={wrong}"]).seconds("--wait", 9.0)


@pytest.mark.parametrize("verb", sorted(GONE))
@pytest.mark.parametrize("words", [(), ("--help",), ("--ansible", "x"), ("--vm-status",)])
def test_a_verb_that_is_not_offered_says_so_whatever_else_is_given(host: World, verb: str, words: tuple) -> None:
    ran = run(verb, *words)
    assert (ran.status, ran.out, ran.err) == (1, "", f"{verb}: {GONE[verb]}\n")
    assert run("--help", verb).err == ran.err
    assert run(verb, "--json").json["error"]["code"] == "not-offered"


def test_help_does_not_mind_json(host: World) -> None:
    assert run("--json", "--help") == run("--help") and run("--help").status == 0


@pytest.mark.parametrize("words", [("--vm-\x1b[31m",), ("--vm-start", "--vm-conf=\x1b[2J"), ("--vm-status", "\udcff")])
def test_what_was_typed_does_not_steer_the_terminal(host: World, words: tuple) -> None:
    ran = run(*words)
    assert ran.status == 1 and (ran.out + ran.err).replace("\n", "").isprintable()


@pytest.mark.parametrize("word", ["", " ", "a\nb", "\x1b[2J"])
@pytest.mark.parametrize("verb", ["--vm-status", "--set-maintenance", "--simulate", "--vm-migrate --wait"])
def test_a_word_that_is_not_seen_is_quoted_and_the_line_stays_one(host: World, verb: str, word: str) -> None:
    ran = run(*verb.split(), word)
    assert ran.status == 1 and ran.err.count("\n") == 1 and repr(word) in ran.err
    ran = run("--get-shared-config", word, "--type=he_local")
    assert ran.status == 1 and ran.err.startswith(f"{word!r}: no such key")
    assert repr(word) in run(word).err.splitlines()[0]


@pytest.mark.parametrize("words", [(), ("--json",)])
def test_ctrl_c_in_any_verb(world: World, monkeypatch: pytest.MonkeyPatch, words: tuple) -> None:
    def interrupted(_request: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("ovirt_he_ha.cli.status.vm_status", interrupted)
    ran = run("--vm-status", *words)
    assert ran.status == 130
    assert ran.json["error"]["code"] == "interrupted" if words else (ran.out == "" and "interrupted" in ran.err)


@pytest.mark.parametrize(
    ("command", "status"),
    [
        ("--version >&-", 0),
        ("--vm-status --json >&-", 0),
        ("--vm-status <&- >&- 2>&-", 0),
        ("--vm-start 2>&-", 1),
        ("--console <&-", 1),
        ("--add-console-password <&-", 1),
        ("--version >/dev/full", 1),
        ("--vm-status --json >/dev/full", 1),
    ],
)
def test_closed_and_full_streams_end_in_a_line(world: World, command: str, status: int) -> None:
    world.publish(record(1), record(2))
    words = f"{sys.executable} -m ovirt_he_ha.cli.main {command}"
    done = subprocess.run(["sh", "-c", words], capture_output=True, text=True)
    assert done.returncode == status, done
    assert "Traceback" not in done.stderr and "internal" not in done.stderr and done.stderr.count("\n") <= 1


@pytest.mark.parametrize("words", [(), ("k",), ("k", "v", "w")])
def test_words_are_counted(table: None, words: tuple) -> None:
    ran = run("--try", *words)
    assert ran.status == 1 and ran.err.count("\n") == 1 and ran.out == ""


@pytest.mark.parametrize(
    "words", [["--json=1", "--vm-status"], ["--json"], ["--json", "--bogus"], ["--console", "--json"]]
)
def test_json_is_answered_with_one_object_whatever_is_wrong(host: World, words: list) -> None:
    ran = run(*words)
    assert ran.status == 1 and ran.err == "" and list(ran.json) == ["error"]


def test_an_output_that_is_full_is_one_line(host: World) -> None:
    script = "import sys; from ovirt_he_ha.cli.main import main; sys.exit(main(['--help']))"
    with open("/dev/full", "w") as full:
        ran = subprocess.run([sys.executable, "-c", script], stdout=full, stderr=subprocess.PIPE, text=True)
    assert ran.returncode == 1 and ran.stderr.count("\n") == 1


@pytest.mark.parametrize("text", ["", "0", "2001", "-1", "1.5", "²", "1" * 30, "x"])
def test_numbers_have_a_range(text: str) -> None:
    with pytest.raises(Refusal):
        parse(["--vm-migrate", f"--host={text}"]).number("--host", 1, 2000)


def test_no_argument_prints_the_usage_and_fails() -> None:
    ran = run()
    assert ran.status == 1 and "--vm-status" in ran.out and not ran.err


def test_help() -> None:
    assert run("--help").status == 0
    for verb in VERBS:
        for words in ((verb, "--help"), ("--help", verb)):
            ran = run(*words)
            assert ran.status == 0 and verb in ran.out
    ran = run("--help", "--bogus")
    assert ran.status == 1 and "--bogus" in ran.err and "--vm-status" in ran.out


@pytest.mark.parametrize("typed", ["--vm-statsu", "--clean_metadata", "vm-status", "--set-maintenence"])
def test_a_slip_of_the_finger_is_answered(typed: str) -> None:
    assert "Did you mean --" in run(typed).err


def test_unknown_command() -> None:
    ran = run("--bogus")
    assert ran.status == 1 and "--bogus" in ran.err and "--vm-status" in ran.out
    with pytest.raises(Unknown):
        parse(["vm-status"])


@pytest.mark.parametrize("verb", sorted(GONE))
def test_what_is_gone_is_answered(verb: str) -> None:
    ran = run(verb, "--anything=else")
    assert ran.status == 1 and verb in ran.err and not ran.out


@given(st.lists(st.sampled_from([*VERBS, "--json", "--mode=x", "--host", "7", "", "=", "--", "-h"]), max_size=5))
def test_any_words_give_a_request_or_a_refusal(words: list) -> None:
    try:
        assert parse(words).verb in words
    except Refusal as refusal:
        assert refusal.status == 1 and str(refusal)


def test_version() -> None:
    ran = run("--version")
    assert ran.status == 0 and ran.out.startswith("ovirt-he-ha ")


def test_help_and_typing_errors_import_nothing_else(host: World) -> None:
    script = (
        "import sys\n"
        "from ovirt_he_ha.cli.main import main\n"
        "main(['--help'])\n"
        "heavy = [m for m in sys.modules if m.startswith('ovirt_he_ha') and not m.startswith('ovirt_he_ha.cli')]\n"
        "sys.exit(len(heavy) - 1)\n"
    )
    assert subprocess.run([sys.executable, "-c", script], stdout=subprocess.DEVNULL).returncode == 0


def test_a_reader_that_goes_away_is_no_error(host: World) -> None:
    script = "import sys; from ovirt_he_ha.cli.main import main; sys.exit(main(['--help']))"
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert process.wait(20) == 1
        assert process.stderr.read() == ""


@pytest.mark.parametrize("words", ["--help --nonsense", "--nonsense --help", "--vm-start-paused --help"])
def test_help_for_what_there_is_not(words: str) -> None:
    ran = run(*words.split())
    assert ran.status == 1 and ran.err.count("\n") == 1
    ran = run(*words.split(), "--json")
    assert ran.status == 1 and set(ran.json) == {"error"} and ran.out.count("\n") == 1 and not ran.err


def test_the_word_that_is_no_command_is_named() -> None:
    assert "--nonsense" in run("--json", "--nonsense").json["error"]["message"]
    assert "--vm-status" in run("vm-status", "--help").err
    assert run("").err.startswith("''")
    assert run("--").status == run("--json").status == 1


def test_what_another_user_may_do_says_so(host: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that cannot be read, and one that cannot be written."""
    real = os.open

    def refused(path: str, flags: int, *more: int, **also: int) -> int:
        if str(path).startswith(str(host.root)):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return real(path, flags, *more, **also)

    with monkeypatch.context() as patch:
        patch.setattr("ovirt_he_ha.config.text.os.open", refused)
        tried = [run("--vm-status"), run("--vm-start"), run("--check-liveliness")]

    def only_writes_are(path: str, flags: int, *more: int, **also: int) -> int:
        return refused(path, flags) if flags & (os.O_WRONLY | os.O_RDWR) else real(path, flags, *more, **also)

    before = host.paths.hosted_engine_conf.read_text()
    with monkeypatch.context() as patch:
        patch.setattr("ovirt_he_ha.config.text.os.open", only_writes_are)
        tried += [
            run("--set-maintenance", "--mode=local"),
            run("--set-shared-config", "gateway", "192.0.2.9", "--type=he_local"),
        ]
    for ran in tried:
        assert ran.status in (1, 2) and "as root or as the user vdsm" in ran.err and "[Errno" not in ran.err, ran
    assert host.paths.hosted_engine_conf.read_text() == before


def test_the_value_of_an_optional_one_wants_its_equals_sign() -> None:
    ran = run("--set-maintenance", "--mode=local", "--wait", "60")
    assert ran.status == 1 and "--wait=60" in ran.err and ran.err.count("\n") == 1
    assert "--wait=60" not in run("--set-maintenance", "--wait", "--mode=local", "60").err


@pytest.mark.parametrize(
    "words", ["--vm-status --stream", "--vm-status --stream --table", "--stream --bogus --vm-status"]
)
def test_a_stream_that_cannot_begin_is_a_line_of_json(host: World, words: str) -> None:
    host.configure(vmid="")
    ran = run(*words.split())
    assert ran.status == 1 and set(ran.json) == {"error"} and ran.out.count("\n") == 1 and not ran.err
