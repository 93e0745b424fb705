"""Which worker hangs? Decided from the outside, by the offsets that its group commits.

A worker can hang with its process alive and its threads answering (Faust's consumer does, silently). What
tells is that records wait and nothing is acknowledged. Pure: who looks gives the figures and the clock.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from deploy.local.lag import Key, Place

# A worker that hangs again and again is given more and more time, at most this: what stops it may be slow
# work, which restarts would only repeat, or something that no restart brings back.
LONGEST_SECONDS: Final = 3600.0
# A worker that ran this many times its bound without hanging begins with the short bound again.
_FORGIVEN_AFTER: Final = 10


@dataclass(frozen=True, slots=True)
class Report:
    """What a worker says itself. `well`: /healthz answers 200; `waiting`: it waits for something outside of
    it; `progress`: when it last acknowledged anything, Unix seconds, 0 for never."""

    well: bool
    waiting: bool = False
    progress: float = 0.0


@dataclass(frozen=True, slots=True)
class Candidate:
    """A running process of the role."""

    name: str
    pid: int
    report: Report


@dataclass(frozen=True, slots=True)
class Stall:
    """A worker that is to be ended. `seconds`: for how long nothing moved; `lag` in records."""

    worker: str
    pid: int
    seconds: float
    lag: int

    def __str__(self) -> str:
        return f"no progress for {self.seconds:.0f} s with lag {self.lag}"


@dataclass(slots=True)
class _Standing:
    place: Place
    since: float  # monotonic: since then there is lag and nothing has moved


@dataclass(slots=True)
class _Past:
    """What is known of a worker: its process, since when, how often it was ended in a row."""

    pid: int
    since: float
    strikes: int = 0
    ended: float = float("-inf")


@dataclass(slots=True)
class Stalls:
    """The partitions of one role that do not move. `bound` and the clock in seconds, monotonic."""

    bound: float
    clock: Callable[[], float]
    _standing: dict[Key, _Standing] = field(default_factory=dict)
    _past: dict[str, _Past] = field(default_factory=dict)

    def look(self, places: Mapping[Key, Place], pids: Mapping[str, int]) -> bool:
        """Take in where the group stands and which processes run, by worker; whether anything stands since
        the look before."""
        now, before = self.clock(), self._standing
        for name, pid in pids.items():
            past = self._past.get(name)
            if past is None or past.pid != pid:
                strikes, ended = (past.strikes, past.ended) if past else (0, float("-inf"))
                self._past[name] = _Past(pid, now, strikes, ended)
        self._standing = {}
        for key, place in places.items():
            if place.lag:
                last = before.get(key)
                stood = last is not None and last.place.done == place.done
                self._standing[key] = _Standing(place, last.since if last is not None and stood else now)
        return any(each.since < now for each in self._standing.values())

    def forget(self, keys: Sequence[Key] | None = None) -> None:
        """What stands (default: all) has a reason that is not the worker's: its time begins anew."""
        now = self.clock()
        for key, each in self._standing.items():
            if keys is None or key in keys:
                each.since = now

    def overdue(self) -> dict[Key, Place]:
        """The partitions that stand for longer than the shortest bound."""
        latest = self.clock() - self.bound
        return {key: each.place for key, each in self._standing.items() if each.since <= latest}

    def judge(self, candidates: Sequence[Candidate], owners: Mapping[Key, str]) -> Stall | None:
        """The worker to end, if there is one. `owners`: whose partition it is, as far as Kafka knows; the
        candidates are those of the last look.

        A worker that says itself that it waits, and is well, is right to: then nobody hangs. A partition
        without an owner (the group does not come to rest) is on the account of a worker that does not
        answer, then of the one that acknowledged something longest ago.
        """
        now = self.clock()
        if any(each.report.waiting and each.report.well for each in candidates):
            self.forget()
            return None
        names = {each.name for each in candidates}
        overdue = self.overdue()
        nobodys = [key for key in overdue if owners.get(key) not in names]
        for each in sorted(candidates, key=lambda one: (one.report.well, one.report.progress)):
            keys = nobodys + [key for key in overdue if owners.get(key) == each.name]
            if not keys:
                continue
            past = self._past[each.name]
            if now - past.ended > _FORGIVEN_AFTER * self._bound_of(past):
                past.strikes = 0
            seconds = now - max(past.since, min(self._standing[key].since for key in keys))
            if seconds >= self._bound_of(past):
                past.strikes += 1
                past.ended = now
                self.forget(keys)
                return Stall(each.name, each.pid, seconds, sum(overdue[key].lag for key in keys))
        return None

    def _bound_of(self, past: _Past) -> float:
        longest = max(LONGEST_SECONDS, self.bound)
        return min(longest, self.bound * 2.0 ** min(past.strikes, 32))
