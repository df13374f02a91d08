"""A procedure of several steps: each one shown with its wait, and an interruption leaves a state with a name. Nothing
of it is kept on this host: what is done already is seen on the cluster, so the same command goes on from there."""

import json
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple

from ovirt_he_ha.cli.failure import explain
from ovirt_he_ha.cli.hosts import Hosts
from ovirt_he_ha.cli.request import Refusal, say, warn
from ovirt_he_ha.cli.waiting import Condition, Overdue, wait_for
from ovirt_he_ha.client.link import BrokerSnapshot
from ovirt_he_ha.config.paths import HostPaths

DONE, UNDER_WAY, PENDING, PASSED_OVER = "done", "under-way", "pending", "passed-over"
EXIT_INTERRUPTED = 130
UNCHANGED = "Nothing was changed"


class Step(NamedTuple):
    """``name`` is the procedure's state while the step is under way. ``seconds`` (wall): its own bound. ``act`` is
    called while the condition does not hold, until it says that it has acted; a broker that fails in it is asked
    again. ``optional``: the next step follows also when the time is over."""

    name: str
    title: str
    seconds: float
    condition: Condition
    act: Optional[Callable[[BrokerSnapshot, Hosts], bool]] = None
    optional: bool = False


@dataclass
class Procedure:
    """``limit`` (wall seconds): for all steps together; without it each has its own bound. ``holds``: what is true of
    the cluster by now, a sentence. ``end``: the state's name when all is done."""

    verb: str
    paths: HostPaths
    as_json: bool
    end: str
    limit: Optional[float] = None
    holds: str = UNCHANGED
    hosts: List[Dict[str, Any]] = field(default_factory=list)
    _steps: List[Dict[str, Any]] = field(default_factory=list)

    def run(self, steps: Sequence[Step]) -> Optional[int]:
        """None when every step was done or passed over, else the exit status, after everything has been said."""
        self._steps = [{"step": step.name, "state": PENDING, "seconds": 0.0, "detail": ""} for step in steps]
        until = None if self.limit is None else time.monotonic() + self.limit
        for number, step in enumerate(steps):
            bound = _bound(step, until)
            try:
                if not self.as_json:
                    say(f"{number + 1}/{len(steps)} {step.title} (at most {bound:.0f} s)")
                self._take(self._steps[number], step, bound)
            except KeyboardInterrupt:
                return self._broken_off(Refusal("interrupted", "Interrupted", EXIT_INTERRUPTED), number, step)
            except Exception as error:
                return self._broken_off(explain(error), number, step)
        return None

    def close(self, text: str, status: int = 0, **more: Any) -> int:
        """Says what has come of it. Returns ``status``."""
        if self.as_json:
            say(json.dumps({**self._struct(self.end), **more, "text": text}))
        else:
            say(text)
        return status

    def _take(self, told: Dict[str, Any], step: Step, bound: float) -> None:
        told["state"] = UNDER_WAY
        act = step.act
        begin = time.monotonic()

        def condition(snapshot: BrokerSnapshot, hosts: Hosts) -> Tuple[str, bool]:
            nonlocal act
            text, done = step.condition(snapshot, hosts)
            told["detail"] = text
            if not done and act is not None and act(snapshot, hosts):
                act = None
            return text, done

        try:
            wait_for(self.paths, bound, condition, sys.stderr if self.as_json else None)
        except Overdue as error:
            told["detail"] = error.seen
            if not step.optional:
                raise
            told["state"] = PASSED_OVER
            if not self.as_json:
                say(f"Going on without: {error.seen}")
            return
        finally:
            told["seconds"] = round(time.monotonic() - begin, 1)
        told["state"] = DONE

    def _broken_off(self, error: Refusal, number: int, step: Step) -> int:
        seconds = step.seconds if self.limit is None else self.limit
        what = f"Not within {seconds:.0f} s: {error.seen}" if isinstance(error, Overdue) else str(error)
        place = f"Ended in step {number + 1} of {len(self._steps)}, {step.name}"
        again = "" if self.holds == UNCHANGED else f". hosted-engine {self.verb} goes on with that step"
        message = f"{what}\n{place}. {self.holds}{again}"
        if self.as_json:
            failed = {"code": error.code, "message": message.replace("\n", ". ")}
            say(json.dumps({**self._struct(step.name), "text": self.holds, "error": failed}))
        else:
            with suppress(BrokenPipeError):
                sys.stdout.flush()
            warn(message)
        return error.status

    def _struct(self, state: str) -> Dict[str, Any]:
        return {"command": self.verb.lstrip("-"), "state": state, "steps": self._steps, "hosts": self.hosts}


def _bound(step: Step, until: Optional[float]) -> float:
    if until is None:
        return step.seconds
    left = max(0.0, until - time.monotonic())
    # What the next steps need is not spent on what may be left out.
    return min(step.seconds, left / 2) if step.optional else left
