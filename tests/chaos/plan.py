"""Which process is hit when, and how: one seed, one plan."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

Kind = Literal["kill", "stop", "end"]
KINDS: Final[tuple[Kind, ...]] = ("kill", "stop", "end")
_SIGNALS: Final[dict[Kind, str]] = {"kill": "SIGKILL", "stop": "SIGSTOP, SIGCONT", "end": "SIGTERM"}


@dataclass(frozen=True, slots=True)
class Fault:
    """At second `at` of the run the target is killed, stopped or asked to end; `seconds`: how long it stays
    stopped, or is left dead."""

    at: float
    target: str
    kind: Kind
    seconds: float

    @property
    def signal(self) -> str:
        """In the words of the system."""
        return _SIGNALS[self.kind]


def draw(seed: int, targets: Sequence[str], count: int, seconds: float) -> list[Fault]:
    """So many faults within the run, every kind and target covered as far as the number allows; about one in
    five hits together with another. Nothing is hit again before it had time to come back."""
    rng = random.Random(f"faults {seed}")
    begin, end = seconds * 0.06, seconds * 0.94
    stop = min(20.0, seconds / 12)
    rest = min(12.0, seconds / 12)
    wanted = _wanted(rng, targets, count)
    gap = (end - begin) / max(1, count)
    free = dict.fromkeys(targets, 0.0)
    faults: list[Fault] = []
    for number in range(count):
        at = begin + gap * (number + rng.random() * 0.5)
        if faults and rng.random() < 0.2:
            at = faults[-1].at + rng.random() * 0.2
        at = max(at, faults[-1].at if faults else 0.0)
        # the first of those still wanted that had time to come back, else whichever had longest
        choice = next((each for each in wanted if free[each[0]] <= at), None)
        if choice is None:
            choice = min(wanted, key=lambda each: free[each[0]])
            at = max(at, free[choice[0]])
        wanted.remove(choice)
        target, kind = choice
        length = stop if kind == "stop" else rng.uniform(0.0, rest / 3)
        faults.append(Fault(round(at, 3), target, kind, round(length, 3)))
        free[target] = at + length + rest
    return sorted(faults, key=lambda fault: fault.at)


def _wanted(rng: random.Random, targets: Sequence[str], count: int) -> list[tuple[str, Kind]]:
    """Each target once with kinds in turn, then every other pair, then again."""
    found: list[tuple[str, Kind]] = []
    turn = rng.sample(list(targets), len(targets))
    rounds = 0
    while len(found) < count:
        part = [(target, KINDS[(place + rounds) % 3]) for place, target in enumerate(turn)]
        found += rng.sample(part, len(part))
        rounds += 1
    return found[:count]
