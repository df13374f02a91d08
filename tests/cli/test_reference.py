"""Completion and man page say what the table of verbs says."""

import re
import subprocess
from pathlib import Path
from typing import List

import pytest

from ovirt_he_ha.cli import reference
from ovirt_he_ha.cli.verbs import GONE, VERBS, choices

ROOT = Path(__file__).resolve().parents[2]
MACROS = {".TH", ".SH", ".TP", ".PP", ".B", ".I", ".BR", ".RI", ".br"}
BASH = ROOT / "etc" / "completion" / "hosted-engine"


def completed(*words: str) -> List[str]:
    """What bash offers after these words, the last of them unfinished; an equals sign breaks words, as it does
    there."""
    parts = [part for word in ("hosted-engine", *words) for part in re.split("(=)", word) if part or word == ""]
    script = 'COMP_WORDS=("${@:2}"); COMP_CWORD=$(($# - 2)); compopt() { :; }; source "$1"; _hosted_engine; '
    script += 'printf "%s\\n" "${COMPREPLY[@]}"'
    done = subprocess.run(["bash", "-c", script, "bash", str(BASH), *parts], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.parametrize("place", sorted(reference.PLACES))
def test_the_files_are_those_of_the_table(place: str) -> None:
    """Otherwise: python -m ovirt_he_ha.cli.reference"""
    text = (ROOT / place).read_text()
    assert text == reference.PLACES[place](text)


def test_the_package_installs_them() -> None:
    setup = (ROOT / "setup.cfg").read_text()
    for place in reference.PLACES:
        assert place in setup or place == "README.md"


def test_bash_offers_every_verb_and_nothing_else() -> None:
    assert set(completed("")) == {*VERBS, "--help"}
    assert set(completed("--vm-st")) == {verb for verb in VERBS if verb.startswith("--vm-st")}
    assert not {*GONE} & set(completed("--"))


@pytest.mark.parametrize("verb", sorted(VERBS))
def test_bash_offers_every_option_of_a_verb(verb: str) -> None:
    offered = {word.rstrip("=") for word in completed(verb, "--")}
    assert offered == {*VERBS[verb].options, "--help"}


@pytest.mark.parametrize("verb", sorted(VERBS))
def test_bash_offers_the_words_of_a_value(verb: str) -> None:
    for option, kind in VERBS[verb].options.items():
        if choices(kind):
            assert set(completed(verb, f"{option}=")) == set(choices(kind))
            first = choices(kind)[0]
            assert first in completed(verb, f"{option}={first[:2]}") and first in completed(verb, option, first[:2])


def test_bash_completes_files(tmp_path: Path) -> None:
    (tmp_path / "vm.conf").write_text("")
    assert completed("--vm-start", f"--vm-conf={tmp_path}/vm") == [f"{tmp_path}/vm.conf"]
    assert completed("--audit", f"{tmp_path}/v") == [f"{tmp_path}/vm.conf"]


def test_zsh_knows_every_verb_and_option() -> None:
    text = reference.zsh()
    for verb, entry in VERBS.items():
        line = next(line for line in text.splitlines() if line.lstrip().startswith(f"({verb})"))
        for option in entry.options:
            assert f"'{option}" in line
    assert text.count("'") % 2 == 0


def test_zsh_offers_the_verbs_before_a_hyphen_is_typed() -> None:
    """With ``-o`` it holds them for options, which zsh shows only behind one (seen with zsh 5.9)."""
    assert re.search(r"\(\*\) _describe (?!.*-o)", reference.zsh())


def test_the_man_page_is_whole_and_no_text_is_taken_for_a_command() -> None:
    source = reference.man()
    for line in source.splitlines():
        assert not line.startswith("'") and (line[:1] != "." or line.split()[0] in MACROS)
    text = source.replace("\\-", "-").replace("\\&", "").replace("\\e", "\\")
    for name, verb in VERBS.items():
        assert f".B {name}\n{verb.summary}." in text
        assert all(option in text for option in verb.options)
        assert all(line in text for line in verb.details.splitlines())
    assert all(f".B {name}\n" in text for name in GONE)


def test_a_readme_without_its_marks_is_left_alone() -> None:
    with pytest.raises(ValueError):
        reference.readme("# nothing")
