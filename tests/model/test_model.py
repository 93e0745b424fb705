"""Every interleaving of small worlds keeps the promises; every simpler protocol is found out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import redis

from schemas.settings import Settings
from stream_processors.layout import Layout
from tests.model.actors import RETENTION_DAYS, Actors, Tree
from tests.model.explore import Explorer
from tests.model.scenarios import NOW_MS, REGISTERS, SCENARIOS
from tests.model.scripts import Scripts
from tests.model.unsafe import UNSAFE, Unsafe

pytestmark = pytest.mark.engines
BY_NAME = {scenario.name: scenario for scenario in SCENARIOS}
# The last step of a match is explored beside the next match where that takes seconds; `python -m tests.model`
# does it for all.
LARGE = "a place-time holds for a stall below"


@pytest.fixture
def client(settings: Settings) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(settings.redis_url) as found:
        yield found


@pytest.mark.parametrize("name", BY_NAME)
def test_every_order_of_steps_ends_with_the_truth(name: str, client: redis.Redis) -> None:
    scenario, tree = replace(BY_NAME[name], faults=0), Tree(Actors(REGISTERS, NOW_MS))
    outcome = Explorer(scenario, tree, Scripts(client), beside=name != LARGE).explore()
    assert outcome.whole and not outcome.broken
    assert outcome.rests


@pytest.mark.parametrize("name", ["withdrawn", "narrowed away", LARGE])
def test_calls_of_one_shard_each_end_with_the_truth(name: str, client: redis.Redis) -> None:
    """As a Redis Cluster has it: the flags of a market are read apart from the marks of its stall."""
    actors = Actors(REGISTERS, NOW_MS, layout=Layout(1024, RETENTION_DAYS, split=True))
    scenario = replace(BY_NAME[name], faults=0)
    outcome = Explorer(scenario, Tree(actors), Scripts(client), beside=name != LARGE).explore()
    assert outcome.whole and not outcome.broken
    assert outcome.rests


@pytest.mark.parametrize("name", BY_NAME)
def test_both_steps_of_a_scan_in_one_call_end_with_the_truth(name: str, client: redis.Redis) -> None:
    """As one server has it for few scans."""
    actors = Actors(REGISTERS, NOW_MS, layout=Layout(1, RETENTION_DAYS))
    scenario, scripts = replace(BY_NAME[name], faults=0), Scripts(client)
    outcome = Explorer(scenario, Tree(actors), scripts, beside=name != LARGE).explore()
    assert outcome.whole and not outcome.broken
    assert outcome.rests
    assert scripts.names() >= {"add_scans"}


@pytest.mark.parametrize("name", ["withdrawn", "withdrawn first", "moved far away"])
def test_a_crash_at_any_step_changes_nothing(name: str, client: redis.Redis) -> None:
    scenario, tree = replace(BY_NAME[name], faults=1, zombies=False), Tree(Actors(REGISTERS, NOW_MS))
    outcome = Explorer(scenario, tree, Scripts(client), beside=name == "withdrawn first").explore()
    assert outcome.whole and not outcome.broken


@pytest.mark.parametrize("name", ["withdrawn first"])
def test_a_zombie_of_any_step_changes_nothing(name: str, client: redis.Redis) -> None:
    scenario = replace(BY_NAME[name], faults=1, zombies=True)
    outcome = Explorer(scenario, Tree(Actors(REGISTERS, NOW_MS)), Scripts(client)).explore()
    assert outcome.whole and not outcome.broken


@pytest.mark.parametrize("unsafe", UNSAFE, ids=lambda unsafe: unsafe.name)
def test_a_simpler_protocol_is_found_out(unsafe: Unsafe, client: redis.Redis) -> None:
    scenario = replace(BY_NAME[unsafe.scenario], faults=unsafe.faults, zombies=unsafe.zombies)
    actors = Actors(REGISTERS, NOW_MS, **unsafe.actors)
    explorer = Explorer(scenario, Tree(actors), Scripts(client, unsafe.sources), **unsafe.explorer)
    assert explorer.explore().broken
