"""A scenario that fails, made as small as it can be: fewer faults, fewer hosts, shorter times, plainer parameters.

Every candidate is run; it is kept if it breaks the same rule first. The order of candidates is fixed, so the same
failure always shrinks to the same scenario.
"""

from dataclasses import fields, replace
from typing import Any, Dict, Iterator, List, Mapping, Optional, Tuple

from ovirt_he_ha.sim.faults import Fault
from ovirt_he_ha.sim.scenario import Scenario
from ovirt_he_ha.sim.trial import Outcome, attempt, shown
from ovirt_he_ha.sim.world import ClusterSpec

MOST_RUNS = 250
MOST_EVENTS = 3_000_000  # of all those runs: a minute or two, whatever the size of the world
FEW = (1, 2, 3, 5, 8, 16)
_OF_HOSTS = ("slot", "id", "to")


class Shrinker:
    """``runs`` counts the worlds that were tried."""

    def __init__(self, scenario: Scenario, outcome: Outcome, most: int = MOST_RUNS) -> None:
        self.signature = outcome.signature
        self.scenario = shown(scenario, outcome)
        self.outcome = outcome
        self.runs = 0
        self.events = 0
        self._most = most

    def shrink(self) -> Scenario:
        before = None
        while before != self.scenario and not self._is_tired:
            before = self.scenario
            any(self._try(candidate) for candidate in _few_hosts(self.scenario))
            self._fewer_faults()
            self._all(_fewer_hosts)
            self._all(_plainer_cluster)
            self._all(_shorter)
            self._all(_plainer_faults)
        return self.scenario

    @property
    def _is_tired(self) -> bool:
        return self.runs >= self._most or self.events >= MOST_EVENTS

    def _try(self, candidate: Optional[Scenario]) -> bool:
        if candidate is None or candidate == self.scenario or self._is_tired:
            return False
        outcome = attempt(candidate, complete=True)
        self.runs += 1
        self.events += outcome.events
        if outcome.signature != self.signature:
            return False
        self.scenario, self.outcome = shown(candidate, outcome), outcome
        return True

    def _all(self, candidates: Any) -> None:
        """Again from the beginning after each success, as long as there is one."""
        found = True
        while found:
            found = any(self._try(candidate) for candidate in candidates(self.scenario))

    def _fewer_faults(self) -> None:
        """Delta debugging: leave out halves, quarters, ... single ones."""
        size = max(1, len(self.scenario.faults) // 2)
        while True:
            start, removed = 0, False
            while start < len(self.scenario.faults):
                faults = self.scenario.faults
                kept = faults[:start] + faults[start + size :]
                if self._try(replace(self.scenario, faults=kept)):
                    removed = True
                else:
                    start += size
            if size == 1 and not removed:
                return
            size = max(1, size // 2)


# --- candidates -------------------------------------------------------------------------------------------------------


def _few_hosts(scenario: Scenario) -> Iterator[Scenario]:
    """The VM's host and a handful of others."""
    hosts = scenario.cluster.hosts
    first = scenario.cluster.engine_on or 1
    for count in (each for each in FEW if each < hosts):
        kept = {first, *[number for number in range(1, hosts + 1) if number != first][: count - 1]}
        smaller = scenario
        for number in range(hosts, 0, -1):
            smaller = smaller if number in kept else _without_host(smaller, number) or smaller
        yield smaller


def _fewer_hosts(scenario: Scenario) -> Iterator[Optional[Scenario]]:
    for number in range(scenario.cluster.hosts, 0, -1):
        yield _without_host(scenario, number)


def _without_host(scenario: Scenario, gone: int) -> Optional[Scenario]:
    """Those behind it move up by one. A host of ours stays: upstream's among themselves promise nothing."""
    cluster = scenario.cluster
    rest = [number for number in range(1, cluster.hosts + 1) if number != gone]
    if cluster.engine_on == gone or all(cluster.each.get(number, {}).get("upstream") for number in rest):
        return None

    def moved(number: int) -> int:
        return number - 1 if number > gone else number

    each = {moved(number): spec for number, spec in cluster.each.items() if number != gone}
    faults: List[Fault] = []
    for fault in scenario.faults:
        values = {k: moved(int(v)) if k in _OF_HOSTS else v for k, v in fault.parameters.items()}
        mentions = gone in [int(v) for k, v in fault.parameters.items() if k in _OF_HOSTS]
        if fault.host != gone and not mentions:
            host = moved(fault.host) if isinstance(fault.host, int) else fault.host
            faults.append(replace(fault, host=host, parameters=values))
    smaller = replace(cluster, hosts=cluster.hosts - 1, engine_on=moved(cluster.engine_on), each=each)
    return replace(scenario, cluster=smaller, faults=tuple(faults))


def _plainer_cluster(scenario: Scenario) -> Iterator[Scenario]:
    plain, cluster = ClusterSpec(), scenario.cluster
    for name in (each.name for each in fields(ClusterSpec) if each.name not in ("hosts", "each", "engine_on", "warm")):
        if getattr(cluster, name) != getattr(plain, name):
            changed: Dict[str, Any] = {name: getattr(plain, name)}
            yield replace(scenario, cluster=replace(cluster, **changed))
    for number, spec in sorted(cluster.each.items()):
        for key in sorted(spec):
            yield replace(scenario, cluster=replace(cluster, each=_less(cluster.each, number, key)))
    if scenario.seed:
        yield replace(scenario, seed=0)


def _less(each: Mapping[int, Mapping[str, Any]], number: int, key: str) -> Dict[int, Mapping[str, Any]]:
    found = {host: dict(spec) for host, spec in each.items()}
    del found[number][key]
    return {host: spec for host, spec in found.items() if spec}


def _shorter(scenario: Scenario) -> Iterator[Scenario]:
    """Everything sooner, one fault shorter, one gap smaller."""
    for index, fault in enumerate(scenario.faults):
        for seconds in _smaller(fault.seconds):
            yield _with_fault(scenario, index, replace(fault, seconds=seconds))
        for gap in (20.0, 100.0):
            yield _sooner(scenario, index, gap)


def _smaller(seconds: Optional[float]) -> Tuple[float, ...]:
    if seconds is None or seconds <= 1.0:
        return ()
    rounded = float(int(seconds))
    return (float(int(seconds / 2)), rounded) if rounded != seconds else (float(int(seconds / 2)),)


def _sooner(scenario: Scenario, index: int, gap: float) -> Scenario:
    """This fault and those behind it come earlier, by so many seconds, or at whole seconds."""
    faults = scenario.faults
    earliest = faults[index - 1].at if index else 0.0
    at = max(earliest, float(int(faults[index].at - gap)))
    by = faults[index].at - at
    if by <= 0:
        return scenario
    moved = tuple(replace(each, at=round(each.at - by, 3)) for each in faults[index:])
    return replace(scenario, faults=faults[:index] + moved, length=scenario.length)


def _with_fault(scenario: Scenario, index: int, fault: Fault) -> Scenario:
    return replace(scenario, faults=(*scenario.faults[:index], fault, *scenario.faults[index + 1 :]))


def _plainer_faults(scenario: Scenario) -> Iterator[Scenario]:
    for index, fault in enumerate(scenario.faults):
        for key in sorted(fault.parameters):
            rest = {name: value for name, value in fault.parameters.items() if name != key}
            yield _with_fault(scenario, index, replace(fault, parameters=rest))
        if fault.at != int(fault.at):
            yield _with_fault(scenario, index, replace(fault, at=float(int(fault.at))))
