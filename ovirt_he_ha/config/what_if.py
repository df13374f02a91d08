"""The question behind ``hosted-engine --simulate`` and ``he-sim what-if``, as words of a command line.

Faults stand in any order and as often as wanted; ``--at`` and ``--for`` belong to the fault before them.
"""

import math
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Dict, List, Mapping, Optional, Sequence, Tuple

ENGINE = "engine"  # the host on which the engine VM is at that moment
ALL = "all"
LONGEST = 86400.0  # seconds
MOST_FAULTS = 20
RUNS = 20
MOST_RUNS = 1000
MOST_SEED = 1 << 62

# How the value of an option reads; empty: it has none.
HOST, SECONDS, SECONDS_HOST, COUNT, FLAG = "host", "seconds", "seconds[:host]", "number", ""

FAULTS: Mapping[str, str] = MappingProxyType(
    {
        "--fail-host": HOST,
        "--network-loss": HOST,
        "--storage-hang": SECONDS_HOST,
        "--storage-error": SECONDS_HOST,
        "--crash-vm": FLAG,
        "--hang-vm": FLAG,
        "--maintenance": HOST,
        "--global-maintenance": FLAG,
        "--no-migration": FLAG,
    }
)
MOMENTS: Mapping[str, str] = MappingProxyType({"--at": SECONDS, "--for": SECONDS})
SETTINGS: Mapping[str, str] = MappingProxyType(
    {"--boot-time": SECONDS, "--runs": COUNT, "--seed": COUNT, "--snapshot": FLAG, "--json": FLAG}
)
OPTIONS: Mapping[str, str] = MappingProxyType({**FAULTS, **MOMENTS, **SETTINGS})
# A crash is over at once, and what hangs is ended by a restart; the others have their seconds in their value.
_ENDLESS = ("--crash-vm", "--hang-vm")


class QuestionError(Exception):
    """One line: which option, what it expects, what was found."""


@dataclass(frozen=True)
class AskedFault:
    """``name``: the option without dashes. ``host``: an id or a host name as written, ENGINE, ALL, or empty where there
    is none. ``at``: seconds after the beginning. ``seconds``: None for ever."""

    name: str
    host: str = ""
    at: float = 0.0
    seconds: Optional[float] = None

    @property
    def option(self) -> str:
        return f"--{self.name}"


@dataclass(frozen=True)
class Question:
    """``boot_time``: seconds from the VM's start to its health page; None: not given. ``words``: those without
    dashes. ``snapshot``: only what it would start from is wanted."""

    faults: Tuple[AskedFault, ...] = ()
    boot_time: Optional[float] = None
    runs: int = RUNS
    seed: int = 0
    snapshot: bool = False
    json: bool = False
    words: Tuple[str, ...] = ()


def read(words: Sequence[str]) -> Question:
    """Raises QuestionError."""
    return _Reader(words).question()


@dataclass
class _Reader:
    words: Sequence[str]
    faults: List[AskedFault] = field(default_factory=list)
    settings: Dict[str, str] = field(default_factory=dict)
    moments: List[str] = field(default_factory=list)  # given for the last fault
    plain: List[str] = field(default_factory=list)

    def question(self) -> Question:
        rest = list(self.words)
        while rest:
            word = rest.pop(0)
            if not word.startswith("--"):
                self.plain.append(word)
                continue
            name, value = self._option(word, rest)
            if name in FAULTS:
                self._fault(name, value)
            elif name in MOMENTS:
                self._moment(name, value)
            elif name in self.settings:
                raise QuestionError(f"{name} is given twice")
            else:
                self.settings[name] = value
        return self._settled()

    def _option(self, word: str, rest: List[str]) -> Tuple[str, str]:
        name, equals, value = word.partition("=")
        if name not in OPTIONS:
            raise QuestionError(f"{word[:80]}: not understood. --simulate has the options " + ", ".join(OPTIONS))
        kind = OPTIONS[name]
        if kind == FLAG:
            if equals:
                raise QuestionError(f"{name} takes no value, found {value[:40]!r}")
        elif not equals:
            if not rest or rest[0].startswith("--"):
                raise QuestionError(f"{name}: expected {name}={kind}, found no value")
            value = rest.pop(0)
        return name, value

    def _fault(self, name: str, value: str) -> None:
        host, seconds = "", None
        if FAULTS[name] == HOST:
            host = _host(name, value)
        elif FAULTS[name] == SECONDS_HOST:
            text, colon, where = value.partition(":")
            seconds, host = _seconds(name, text, least=1.0), _host(name, where) if colon else ALL
        if len(self.faults) == MOST_FAULTS:
            raise QuestionError(f"{name}: expected at most {MOST_FAULTS} faults")
        self.faults.append(AskedFault(name[2:], host, 0.0, seconds))
        self.moments.clear()

    def _moment(self, name: str, value: str) -> None:
        if not self.faults:
            raise QuestionError(f"{name}: expected after the fault that it belongs to, as in --fail-host=2 {name}=30")
        fault = self.faults[-1]
        if name in self.moments:
            raise QuestionError(f"{name} is given twice for {fault.option}")
        self.moments.append(name)
        if name == "--at":
            self.faults[-1] = replace(fault, at=_seconds(name, value, least=0.0))
        elif fault.option in _ENDLESS:
            raise QuestionError(f"--for: {fault.option} has no duration")
        elif FAULTS[fault.option] == SECONDS_HOST:
            raise QuestionError(f"--for: {fault.option} has its duration in its value")
        else:
            self.faults[-1] = replace(fault, seconds=_seconds(name, value, least=1.0))

    def _settled(self) -> Question:
        for index, fault in enumerate(self.faults):
            if fault in self.faults[:index]:
                raise QuestionError(f"{fault.option} is given twice for the same host and moment")
        given = self.settings
        boot = given.get("--boot-time")
        return Question(
            faults=tuple(self.faults),
            boot_time=None if boot is None else _seconds("--boot-time", boot, least=0.0),
            runs=_count("--runs", given.get("--runs", str(RUNS)), 1, MOST_RUNS),
            seed=_count("--seed", given.get("--seed", "0"), 0, MOST_SEED),
            snapshot="--snapshot" in given,
            json="--json" in given,
            words=tuple(self.plain),
        )


def _host(name: str, text: str) -> str:
    if not text or text == ALL or not text.isprintable() or len(text) > 255:
        raise QuestionError(f"{name}: expected a host id, a host's name, or {ENGINE}, found {text[:40]!r}")
    return text


def _seconds(name: str, text: str, least: float) -> float:
    try:
        found = float(text) if text.isascii() else math.nan
    except ValueError:
        found = math.nan
    if not least <= found <= LONGEST:
        raise QuestionError(f"{name}: expected seconds from {least:g} to {LONGEST:g}, found {text[:40]!r}")
    return found


def _count(name: str, text: str, low: int, high: int) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 20 and low <= int(text) <= high):
        raise QuestionError(f"{name}: expected a number from {low} to {high}, found {text[:40]!r}")
    return int(text)
