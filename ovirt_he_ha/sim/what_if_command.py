"""he-sim what-if: asks for a cluster whose snapshot is in a file. ``hosted-engine --simulate`` runs it as a child."""

import json
import sys
from pathlib import Path
from typing import List

from ovirt_he_ha.config.what_if import OPTIONS, Question, QuestionError, read
from ovirt_he_ha.sim import live
from ovirt_he_ha.sim.scenario import LARGEST, ScenarioError, document_of
from ovirt_he_ha.sim.what_if import WhatIfError, ask
from ovirt_he_ha.sim.what_if_report import document, text

ABOUT = "what would happen in a cluster whose snapshot `hosted-engine --simulate --snapshot` printed"
EXIT_OK = 0
EXIT_INPUT = 2
EXIT_AWAY = 3  # the engine does not come back in some run, or a rule was broken
STDIN = "-"


def usage() -> str:
    options = " ".join(f"[{name}={value}]" if value else f"[{name}]" for name, value in OPTIONS.items())
    return f"usage: he-sim what-if FILE {options}\n\n{ABOUT}.\nFILE - is standard input.\n"


def main(words: List[str]) -> int:
    if "--help" in words or "-h" in words:
        sys.stdout.write(usage())
        return EXIT_OK
    try:
        question = read(words)
        return _answer(question)
    except (QuestionError, WhatIfError, ScenarioError) as problem:
        if "--json" in words:
            code = "snapshot" if isinstance(problem, ScenarioError) else "question"
            sys.stdout.write(json.dumps({"error": {"code": code, "message": str(problem)}}) + "\n")
        else:
            sys.stderr.write(f"he-sim: {problem}\n")
        return EXIT_INPUT


def _answer(question: Question) -> int:
    if len(question.words) != 1:
        raise QuestionError(f"what-if: expected one FILE, found {len(question.words)}")
    if question.snapshot:
        raise QuestionError("--snapshot: FILE is the snapshot; hosted-engine --simulate --snapshot makes one")
    file = question.words[0]
    cluster = live.read(_document(file), "standard input" if file == STDIN else file)
    answer = ask(cluster, question)
    sys.stdout.write(json.dumps(document(answer)) + "\n" if question.json else text(answer))
    return EXIT_OK if answer.comes_back and not answer.violations else EXIT_AWAY


def _document(file: str) -> object:
    name = "standard input" if file == STDIN else file
    try:
        if file == STDIN:
            data = sys.stdin.buffer.read(LARGEST)
        else:
            with Path(file).open("rb") as stream:  # a pipe is good, too
                data = stream.read(LARGEST)
    except OSError as error:
        raise ScenarioError(name, "the file", "a readable file", error.strerror) from None
    return document_of(name, data)
