"""Every interleaving of a world's actors, with faults, down to rest; and what must hold there.

Actors: one for each scan (each on a partition of its own), one for all versions of the case in the order of
their topic, the matcher, and whoever sees that a venue has another parent. An actor may crash at any step and
begin again (redelivery); or leave a zombie that goes on as if it had not been replaced. A matcher that takes
over begins its transactional id first, so a zombie's write is refused from then on. What a matcher reads may
be one record or all that is there; it may begin with what comes next beside the last step of what it
published, and acknowledges the one not before the other. A process may know an older register than there is,
until it looks.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, Final, NamedTuple

import orjson

from tests.model.actors import (
    DEAD,
    DONE,
    FENCED,
    FRESH,
    OWN,
    PUBLISH,
    SCRIPT,
    STILL,
    ActorError,
    Ask,
    Known,
    Tree,
)
from tests.model.scripts import EMPTY, Scripts, State

_FINISHED: Final = -1
# Two matchers that take turns for ever overtake each other for ever; a zombie is followed this far.
_ATTEMPTS_OF_A_ZOMBIE: Final = 2


class World(NamedTuple):
    """A state of everything. Nodes are those of the tree; _FINISHED: acknowledged."""

    redis: State
    scans: tuple[int, ...]
    topic: tuple[bytes, ...]  # the records of the topic of cases; what stands is written there again
    case_at: int  # position in it
    case: int
    touched: tuple[bytes, ...]  # what is not acknowledged
    taken: int  # records of the chunk at hand
    match: int  # node, or _FINISHED: no chunk at hand
    settling: int  # records before those that are published, and still in their last step
    settle: int  # node of that
    incarnation: int
    owner: int  # whose incarnation may write
    zombies: tuple[tuple[str, int, int], ...]  # kind, node, incarnation
    visits: frozenset[str]
    exposures: tuple[tuple[str, bytes, int], ...]  # key, last record, highest version
    faults: int
    register: int = 0  # the state of the register of venues
    mover: int = _FINISHED
    known: int = 0  # the register that the matcher's process knows


@dataclass
class Scenario:
    """A small world: scans and case versions as records, and what must stand of each person at its end."""

    name: str
    scans: tuple[bytes, ...]
    cases: tuple[bytes, ...]
    expected: dict[str, tuple[str, int] | None]  # person → status and minutes; None: never said exposed
    faults: int = 1
    zombies: bool = True
    faulty: tuple[str, ...] = ("scan", "case", "match", "moved")  # whose processes may fail
    registers: tuple[int, ...] = (0,)  # states of the register, one after another: two at the most
    moves: str = ""  # the venue that differs between them


@dataclass
class Outcome:
    """What an exploration saw."""

    states: int = 0
    rests: int = 0
    broken: list[str] = field(default_factory=list)
    whole: bool = True  # False: there were more states than were allowed


@cache
def _exposure(value: bytes) -> dict[str, Any]:
    found: dict[str, Any] = orjson.loads(value)
    return found


def _last_step(ask: Ask) -> bool:
    """Whether a matcher has published: it remembers new venues of the case, or clears what was pending."""
    if ask.kind != SCRIPT:
        return False
    name, _, args = ask.what
    return name == "clear_pending" or (name == "add_case_venues" and bool(args))


class Explorer:
    """Explores one scenario. Without `fence`, a zombie's write is taken; with `early_ack`, a scan is
    acknowledged before its visit is written: two protocols that have to be found out. Without `beside`, the
    matcher begins with nothing before it has cleared what it published: fewer states."""

    def __init__(
        self,
        scenario: Scenario,
        tree: Tree,
        scripts: Scripts,
        *,
        fence: bool = True,
        early_ack: bool = False,
        beside: bool = True,
    ) -> None:
        self._scenario = scenario
        self._tree = tree
        self._scripts = scripts
        self._fence = fence
        self._early_ack = early_ack
        self._beside = beside
        about = {orjson.loads(value).get("person") for value in scenario.cases}
        self._of_a_case = [orjson.loads(value)["person"] in about for value in scenario.scans]

    @property
    def scenario(self) -> Scenario:
        """What was sent so far."""
        return self._scenario

    def with_scan(self, world: World, value: bytes) -> World:
        """The world once another scan was sent, on a partition of its own."""
        self._scenario = replace(self._scenario, scans=(*self._scenario.scans, value))
        self._of_a_case.append(True)  # of whom later versions are about is not known
        return world._replace(scans=(*world.scans, self._tree.root(("scan", value, STILL))))

    def with_case(self, world: World, value: bytes) -> World:
        """The world once another version of the case was sent."""
        self._scenario = replace(self._scenario, cases=(*self._scenario.cases, value))
        return self._appended(world, value)

    def explore(self, most: int = 5_000_000, stop_at_first: bool = True) -> Outcome:
        """Visit every state that can be reached, or `most` of them."""
        outcome = Outcome()
        begin = self.begin()
        seen, waiting = {begin}, [begin]
        while waiting:
            world = waiting.pop()
            wrong = ""
            try:
                found = self.steps(world)
            except ActorError as error:
                found, wrong = [], str(error)
            if self.at_rest(world):
                outcome.rests += 1
                wrong = self.wrong(world)
            if wrong:
                outcome.broken.append(wrong)
                if stop_at_first:
                    break
            for after in map(self._same, found):
                if after not in seen:
                    seen.add(after)
                    waiting.append(after)
            if len(seen) > most:
                outcome.whole = False
                break
        outcome.states = len(seen)
        return outcome

    def begin(self) -> World:
        """The world before the first step."""
        tree, scenario = self._tree, self._scenario
        first = scenario.registers[0]
        return World(
            redis=EMPTY,
            scans=tuple(tree.root(("scan", value, self._known(first))) for value in scenario.scans),
            topic=scenario.cases,
            case_at=0,
            case=self._case_root(scenario.cases, 0),
            touched=(),
            taken=0,
            match=_FINISHED,
            settling=0,
            settle=_FINISHED,
            incarnation=1,
            owner=0,
            zombies=(),
            visits=frozenset(),
            exposures=(),
            faults=scenario.faults,
            register=first,
            known=first,
        )

    def _known(self, register: int) -> Known:
        return (register, len(self._scenario.registers) > 1)

    def _case_root(self, topic: tuple[bytes, ...], at: int) -> int:
        if at >= len(topic):
            return _FINISHED
        known = self._known(self._scenario.registers[0])  # it looks at the register before it needs it
        return self._tree.root(("case", orjson.loads(topic[at])["case_id"].encode(), topic[at], known))

    def _appended(self, world: World, value: bytes) -> World:
        """The world once the topic of cases has one more record."""
        world = world._replace(topic=(*world.topic, value))
        if world.case == _FINISHED:
            world = world._replace(case=self._case_root(world.topic, world.case_at))
        return world

    def _same(self, world: World) -> World:
        """One world for all that behave the same."""
        if world.zombies:
            alive = tuple(each for each in world.zombies if self._goes_on(each[1]))
            if alive != world.zombies:
                world = world._replace(zombies=alive)
        if world.match == world.settle == _FINISHED and not any(
            kind == "match" for kind, _, _ in world.zombies
        ):
            world = world._replace(redis=self._scripts.at_rest(world.redis))
        return world

    # --- steps --------------------------------------------------------------------------------

    def steps(self, world: World) -> list[World]:
        """Every world that one step of anybody leads to."""
        for at, node in enumerate(world.scans):
            # a step that nobody else can see, and that sees nobody, needs no other order
            if node != _FINISHED and self._alone(self._tree.ask(node), at):
                return self._step_of_scan(world, at, node)
        # what comes last here is explored first: zombies that are late do the most harm
        found = self._steps_of_zombies(world)
        for at, node in enumerate(world.scans):
            found += self._step_of_scan(world, at, node)
        if world.case != _FINISHED:
            found += self._step_of_case(world)
        if world.register != self._scenario.registers[-1]:
            found.append(world._replace(register=self._scenario.registers[-1], mover=self._mover()))
        if world.mover != _FINISHED:
            found += self._step_of_mover(world)
        return found + self._step_of_matcher(world)

    def _mover(self) -> int:
        return self._tree.root(("moved", self._scenario.moves, self._known(self._scenario.registers[-1])))

    def _step_of_mover(self, world: World) -> list[World]:
        node, root = world.mover, self._mover()
        ask = self._tree.ask(node)
        found = [base._replace(mover=root) for base in self._faults(world, "moved", node, root, 0)]
        if ask is DONE:
            return [*found, world._replace(mover=_FINISHED)]
        after, child = self._answer(world, node, ask, 0)
        return [*found, after._replace(mover=child)]

    def _steps_of_zombies(self, world: World) -> list[World]:
        found: list[World] = []
        for at, (kind, node, incarnation) in enumerate(world.zombies):
            rest = world.zombies[:at] + world.zombies[at + 1 :]
            if self._goes_on(node):
                after, child = self._answer(world, node, self._tree.ask(node), incarnation)
                found.append(after._replace(zombies=tuple(sorted((*rest, (kind, child, incarnation))))))
        return found

    def _goes_on(self, zombie: int) -> bool:
        if self._tree.attempts(zombie) > _ATTEMPTS_OF_A_ZOMBIE:
            return False
        return self._tree.ask(zombie) not in (DONE, DEAD)

    def _alone(self, ask: Ask, at: int) -> bool:
        """Whether a scan's next step commutes with every step of the others: its acknowledgement, a visit
        without news for the matcher, the index of a person whom no case is about."""
        if ask is DONE:
            return True
        if ask.kind == PUBLISH:
            return all(topic != "touched" for topic, _, _ in ask.what)
        return ask.what[0] == "add_index" and not self._of_a_case[at]

    def _step_of_scan(self, world: World, at: int, node: int) -> list[World]:
        if node == _FINISHED:
            return []

        def put(base: World, to: int) -> World:
            return base._replace(scans=(*base.scans[:at], to, *base.scans[at + 1 :]))

        ask = self._tree.ask(node)
        root = self._tree.root(("scan", self._scenario.scans[at], self._known(world.register)))
        found = [put(base, root) for base in self._faults(world, "scan", node, root, 0)]
        if node != root and not self._tree.answered(node):  # not begun: it may know of the change by then
            found.append(put(world, root))
        if ask is DONE:
            return [*found, put(world, _FINISHED)]
        after, child = self._answer(world, node, ask, 0)
        if self._early_ack and ask.kind == PUBLISH:  # acknowledged before it is written: a crash loses it
            found += [put(base, _FINISHED) for base in self._faults(world, "scan", node, -2, 0)]
        return [*found, put(after, child)]

    def _step_of_case(self, world: World) -> list[World]:
        node, root = world.case, self._case_root(world.topic, world.case_at)
        ask = self._tree.ask(node)
        found = [base._replace(case=root) for base in self._faults(world, "case", node, root, 0)]
        if ask is DONE:
            at = world.case_at + 1
            return [*found, world._replace(case_at=at, case=self._case_root(world.topic, at))]
        after, child = self._answer(world, node, ask, 0)
        return [*found, after._replace(case=child)]

    def _step_of_matcher(self, world: World) -> list[World]:
        found = self._step_of_settling(world)
        if world.match == _FINISHED:
            ready = world.touched[world.settling :]
            owned = world.owner == world.incarnation
            return found + [
                world._replace(
                    taken=count,
                    match=self._tree.root(("match", owned, ready[:count], self._known(known))),
                    known=known,
                )
                for count in sorted({1, len(ready)} - {0})
                for known in sorted({world.known, world.register})
                if ready
            ]
        ask = self._tree.ask(world.match)
        found += [
            self._taken_over(base)
            for base in self._faults(world, "match", world.match, _FINISHED, world.incarnation)
        ]
        if ask is DEAD:  # shut out: it ends, and a new one takes over
            return [*found, self._taken_over(world)]
        if ask is DONE:
            if world.settle != _FINISHED:  # what came before is acknowledged first
                return found
            left_over = world.touched[world.taken :]
            return [*found, world._replace(touched=left_over, taken=0, match=_FINISHED)]
        if self._beside and _last_step(ask) and world.settle == _FINISHED:
            found.append(world._replace(settling=world.taken, settle=world.match, taken=0, match=_FINISHED))
        if ask.kind == FRESH:
            world = world._replace(known=world.register)
        after, child = self._answer(world, world.match, ask, world.incarnation)
        return [*found, after._replace(match=child)]

    def _step_of_settling(self, world: World) -> list[World]:
        if world.settle == _FINISHED:
            return []
        ask, found = self._tree.ask(world.settle), list[World]()
        if world.match == _FINISHED:  # else the process fails with the chunk at hand
            found = [
                self._taken_over(base)
                for base in self._faults(world, "match", world.settle, _FINISHED, world.incarnation)
            ]
        if ask is DONE:
            left_over = world.touched[world.settling :]
            return [*found, world._replace(touched=left_over, settling=0, settle=_FINISHED)]
        after, child = self._answer(world, world.settle, ask, world.incarnation)
        return [*found, after._replace(settle=child)]

    def _taken_over(self, world: World) -> World:
        """The world once a new matcher begins where nothing is acknowledged."""
        return world._replace(
            taken=0,
            match=_FINISHED,
            settling=0,
            settle=_FINISHED,
            incarnation=world.incarnation + 1,
            known=world.register,
        )

    def _faults(self, world: World, kind: str, node: int, root: int, incarnation: int) -> list[World]:
        """The worlds in which this actor has just crashed, or was replaced and goes on as a zombie."""
        if not world.faults or node == root or kind not in self._scenario.faulty:
            return []
        less = world._replace(faults=world.faults - 1)
        if not self._scenario.zombies or self._tree.ask(node) is DONE:
            return [less]
        late = [(kind, node, incarnation)]
        if kind == "match" and world.settle not in {node, _FINISHED}:
            late.append((kind, world.settle, incarnation))
        return [less, less._replace(zombies=tuple(sorted((*world.zombies, *late))))]

    def _answer(self, world: World, node: int, ask: Ask, incarnation: int) -> tuple[World, int]:
        """Do what an actor asks; the world after it and the actor's node."""
        if ask.kind == SCRIPT:
            reply, redis = self._scripts.run(world.redis, *ask.what)
            return world._replace(redis=redis), self._tree.child(node, reply)
        if ask.kind == FRESH:
            return world, self._tree.child(node, world.register)
        if ask.kind == OWN:
            return world._replace(owner=incarnation), self._tree.child(node, None)
        if incarnation and self._fence and world.owner != incarnation:
            return world, self._tree.child(node, FENCED)
        for topic, _, value in ask.what:
            world = self._written(world, topic, value)
        return world, self._tree.child(node, None)

    def _written(self, world: World, topic: str, value: bytes) -> World:
        if topic == "touched":
            return world._replace(touched=(*world.touched, value))
        if topic == "visits":
            ids = {visit["scan_id"] for visit in orjson.loads(value)}
            return world._replace(visits=world.visits | ids)
        if topic == "cases":
            return self._appended(world, value)
        if topic == "exposures":
            it = _exposure(value)
            key = it["exposure_id"]
            others = [each for each in world.exposures if each[0] != key]
            highest = max([it["version"]] + [each[2] for each in world.exposures if each[0] == key])
            return world._replace(exposures=tuple(sorted([*others, (key, value, highest)])))
        return world

    # --- what must hold -----------------------------------------------------------------------

    def at_rest(self, world: World) -> bool:
        """Whether everything is acknowledged; zombies may still be under way."""
        return (
            all(node == _FINISHED for node in world.scans)
            and world.case == _FINISHED
            and world.match == world.settle == _FINISHED
            and not world.touched
            and world.mover == _FINISHED
            and world.register == self._scenario.registers[-1]
        )

    def wrong(self, world: World) -> str:
        """What is wrong with a world at rest; empty: nothing."""
        scenario = self._scenario
        stands: dict[str, tuple[str, int]] = {}
        for _, value, highest in world.exposures:
            it = _exposure(value)
            if it["version"] != highest:
                return f"the last record is version {it['version']}, an earlier one was {highest}"
            stands[it["person"]] = (it["status"], it["minutes"])
        for person, must in scenario.expected.items():
            found = stands.get(person)
            if must is None and found is not None and found[0] == "exposed":
                return f"{person} stands {found}, and was never exposed"
            if must is not None and must[0] == "exposed" and found != must:
                return f"{person} stands {found}, not {must}"
        ids = {orjson.loads(value)["scan_id"] for value in scenario.scans}
        if world.visits != ids:
            return f"visits lost: {sorted(ids - world.visits)}"
        if scenario.cases:
            versions = [orjson.loads(value)["version"] for value in scenario.cases]
            last = orjson.loads(world.topic[-1])["version"]
            if last != max(versions):
                return f"the last record of the case is version {last}"
        return ""
