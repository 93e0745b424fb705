"""Longer histories than can be enumerated: scans and versions of a case at any time between the steps of
everybody, with crashes and zombies; judged by the rules of contact, minute by minute."""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import orjson
import pytest
import redis
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from schemas.settings import Settings
from tests.lookups import oracle
from tests.model.actors import Actors, Tree
from tests.model.explore import Explorer, Scenario, World
from tests.model.scenarios import BELOW, CASE, CONTACT, NOW_MS, REGISTERS, VENUE, VENUES, T, case, scan
from tests.model.scripts import Scripts
from tests.model.unsafe import BlindToFlags

pytestmark = pytest.mark.engines

_DWELLS = {venue.code: venue.dwell for venue in VENUES}
_MOST_STEPS = 20_000  # a history that does not come to rest is wrong as well
# Few values: people are to meet, and windows to hold them or not.
_MINUTES = st.sampled_from([0, 10, 20, 50, 90])


class History(RuleBasedStateMachine):
    """What is sent, and who is let go on, as hypothesis likes."""

    client: redis.Redis
    unsafe: Mapping[str, Any]

    def __init__(self) -> None:
        super().__init__()
        self.explorer = Explorer(
            Scenario("longer", (), (), {}, faults=3),
            Tree(Actors(REGISTERS, NOW_MS, **self.unsafe)),
            Scripts(self.client),
        )
        self.world = self.explorer.begin()
        self.sent: set[oracle.AMark] = set()
        self.versions: dict[int, bytes] = {}

    @initialize()
    def two_meet_and_one_is_a_case(self) -> None:
        self.somebody_scans(CASE, VENUE, 0, "in")
        self.somebody_scans(CONTACT, VENUE, 10, "in")
        self.a_version_is_sent(3, -60, 300, 1, False)

    @rule(
        person=st.sampled_from([CASE, CONTACT]),
        venue=st.sampled_from([VENUE, VENUE, VENUE, BELOW]),
        minute=_MINUTES,
        kind=st.sampled_from(["in", "in", "in", "out", "out", "void"]),
    )
    def somebody_scans(self, person: str, venue: str, minute: int, kind: str) -> None:
        mark = (person, venue, T + minute, kind)
        if mark not in self.sent:
            self.sent.add(mark)
            self.world = self.explorer.with_scan(self.world, scan(person, minute, kind, venue))

    @rule(
        version=st.integers(1, 9),
        begin=st.sampled_from([-60, -60, 15, 100]),
        length=st.sampled_from([300, 300, 50]),
        overlap=st.sampled_from([1, 1, 15]),
        withdrawn=st.sampled_from([False, False, True]),
    )
    def a_version_is_sent(self, version: int, begin: int, length: int, overlap: int, withdrawn: bool) -> None:
        if version not in self.versions:
            status = "withdrawn" if withdrawn else "confirmed"
            value = case(version, begin, begin + length, min_overlap=overlap, status=status)
            self.versions[version] = value
            self.world = self.explorer.with_case(self.world, value)

    @rule(seed=st.integers(0, 2**32), count=st.integers(1, 60))
    def somebody_goes_on(self, seed: int, count: int) -> None:
        draw = random.Random(seed)  # uniform, unlike what hypothesis draws
        for _ in range(count):
            if steps := self.explorer.steps(self.world):
                self.world = draw.choice(steps)

    def teardown(self) -> None:
        world = to_rest(self.explorer, self.world)
        assert self.explorer.at_rest(world)
        assert not self.explorer.wrong(world)
        assert standing(world) == self.expected()

    def expected(self) -> dict[tuple[str, str], int]:
        """(person, venue) → minutes of whoever met the case, by its highest version."""
        if not self.versions:
            return {}
        last = orjson.loads(self.versions[max(self.versions)])
        if last["status"] == "withdrawn":
            return {}
        window = range(last["infectious_from"] // 60_000, last["infectious_to"] // 60_000)
        found = oracle.contacts(self.sent, _DWELLS, CASE, window, last["min_overlap"])
        return {(person, venue): minutes for person, venue, _, minutes, _, _ in found}


def to_rest(explorer: Explorer, world: World) -> World:
    """Everybody goes on, without any more faults, until nobody has anything left to do."""
    world, draw = world._replace(faults=0), random.Random(0)
    for _ in range(_MOST_STEPS):
        steps = explorer.steps(world)
        if not steps:
            return world
        world = draw.choice(steps)
    raise AssertionError("it does not come to rest")


def standing(world: World) -> dict[tuple[str, str], int]:
    """(person, venue) → minutes of the exposures that stand."""
    found = {}
    for _, value, _ in world.exposures:
        it = orjson.loads(value)
        if it["status"] == "exposed":
            found[it["person"], it["venue"]] = it["minutes"]
    return found


@pytest.fixture
def client(settings: Settings) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(settings.redis_url) as found:
        yield found


def run(client: redis.Redis, examples: int, phases: Collection[Phase] = tuple(Phase), **unsafe: Any) -> None:
    """So many histories. Raises AssertionError, with the shortest one, when one ends wrongly."""
    History.client, History.unsafe = client, unsafe
    run_state_machine_as_test(
        History,
        settings=settings(
            max_examples=examples,
            stateful_step_count=40,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
            phases=phases,
        ),
    )


def test_long_histories_end_with_the_truth(client: redis.Redis) -> None:
    run(client, 200)


def test_a_simpler_protocol_does_not(client: redis.Redis) -> None:
    with pytest.raises(AssertionError):
        run(client, 1_000, phases=[Phase.generate], store=BlindToFlags)
