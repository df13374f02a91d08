"""The words of a what-if."""

from typing import List

import pytest

from ovirt_he_ha.cli.verbs import VERBS
from ovirt_he_ha.config.what_if import ALL, OPTIONS, RUNS, AskedFault, Question, QuestionError, read


def test_nothing_asked() -> None:
    assert read([]) == Question() and read([]).runs == RUNS


def test_the_command_offers_just_these_options() -> None:
    assert dict(VERBS["--simulate"].options) == dict(OPTIONS)


@pytest.mark.parametrize(
    ("words", "faults"),
    [
        (["--fail-host=2"], [AskedFault("fail-host", "2")]),
        (["--fail-host", "2"], [AskedFault("fail-host", "2")]),
        (["--fail-host=host2.example"], [AskedFault("fail-host", "host2.example")]),
        (["--fail-host=engine", "--at=30", "--for=600"], [AskedFault("fail-host", "engine", 30.0, 600.0)]),
        (["--storage-hang=60"], [AskedFault("storage-hang", ALL, 0.0, 60.0)]),
        (["--storage-hang=1.5:2", "--at", "4"], [AskedFault("storage-hang", "2", 4.0, 1.5)]),
        (["--storage-error=60:engine"], [AskedFault("storage-error", "engine", 0.0, 60.0)]),
        (["--crash-vm", "--crash-vm", "--at=60"], [AskedFault("crash-vm"), AskedFault("crash-vm", "", 60.0)]),
        (
            ["--fail-host=1", "--for=9", "--json", "--fail-host=3", "--at=5"],
            [AskedFault("fail-host", "1", 0.0, 9.0), AskedFault("fail-host", "3", 5.0)],
        ),
        (["--global-maintenance", "--for=9"], [AskedFault("global-maintenance", "", 0.0, 9.0)]),
    ],
)
def test_faults(words: List[str], faults: List[AskedFault]) -> None:
    assert list(read(words).faults) == faults


def test_settings_and_words() -> None:
    found = read(["a", "--boot-time=90", "--runs=3", "--seed", "7", "--json", "--snapshot", "b"])
    assert found == Question((), 90.0, 3, 7, True, True, ("a", "b"))


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (["--fail-host"], "--fail-host=host"),
        (["--fail-host", "--json"], "--fail-host=host"),
        (["--fail-host="], "--fail-host"),
        (["--fail-host=all"], "--fail-host"),
        (["--fail-host=a\tb"], "--fail-host"),
        (["--storage-hang"], "seconds"),
        (["--storage-hang=-5"], "--storage-hang"),
        (["--storage-hang=0"], "--storage-hang"),
        (["--storage-hang=nan"], "--storage-hang"),
        (["--storage-hang=1e9"], "--storage-hang"),
        (["--storage-hang=soon"], "--storage-hang"),
        (["--storage-hang=\u0661"], "--storage-hang"),
        (["--storage-hang=60:"], "--storage-hang"),
        (["--storage-hang=60", "--for=5"], "--for"),
        (["--crash-vm=1"], "--crash-vm"),
        (["--crash-vm", "--for=5"], "--for"),
        (["--at=5"], "--at"),
        (["--fail-host=1", "--at=-1"], "--at"),
        (["--fail-host=1", "--at=1", "--at=2"], "--at"),
        (["--fail-host=1", "--for=0"], "--for"),
        (["--fail-host=1", "--fail-host=1"], "--fail-host"),
        (["--boot-time=-1"], "--boot-time"),
        (["--boot-time=1", "--boot-time=2"], "--boot-time"),
        (["--runs=0"], "--runs"),
        (["--runs=1001"], "--runs"),
        (["--seed=-1"], "--seed"),
        (["--explode"], "--explode"),
        ([f"--fail-host={n}" for n in range(1, 30)], "20"),
    ],
)
def test_bad_words_are_one_line_that_names_the_option(words: List[str], names: str) -> None:
    with pytest.raises(QuestionError) as caught:
        read(words)
    assert names in str(caught.value) and "\n" not in str(caught.value)
