"""A Redis Cluster as the store: the same as one server, and what it loses is noticed."""

from __future__ import annotations

import asyncio
import random
import shutil
import subprocess
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pytest
from redis.exceptions import RedisError

from deploy.local import engines as local
from deploy.local import health, redis_cluster
from deploy.local.store import store_client, store_status
from schemas.codes import ALPHABET
from schemas.events import Case
from schemas.settings import Settings
from stream_processors.guard import READY
from stream_processors.layout import Layout
from stream_processors.requests import MarkRow, Marks
from stream_processors.servers import StoreLostError, connect
from stream_processors.store import Ingested, Store
from tests.stream.harness import HOUR, installed, now_ms, person
from tests.stream.test_losing_redis import ROLES, buckets, crowd, rebuilt, state

pytestmark = pytest.mark.engines

SHARDS = 16
T = TypeVar("T")


def store_at(url: str) -> Store:
    return Store(connect(url), Layout(SHARDS, 30), now_ms, lambda _: None)


def within(url: str, work: Callable[[Store], Coroutine[Any, Any, T]], **committed: int) -> T:
    """Open the store, do some work with it, close it."""

    async def run() -> T:
        store = store_at(url)
        try:
            await store.open(committed)
            return await work(store)
        finally:
            await store.close()

    return asyncio.run(run())


def contents(url: str) -> dict[str, Any]:
    """What is held, but for epochs and who was erased (which a cluster holds once a shard)."""
    held: dict[str, Any] = {}
    with store_client(url, 5.0) as client:
        for key in client.scan_iter("*", count=1000):
            family = key[:2]
            if family == b"p:":  # in which order entries were appended says nothing
                text = b"".join(client.lrange(key, 0, -1))
                held[key.decode()] = sorted(text[at : at + 16] for at in range(0, len(text), 16))
            elif family == b"w:":
                held[key.decode()] = client.zrange(key, 0, -1, withscores=True)
            elif family in (b"b:", b"d:"):
                text = b"".join(client.hvals(key))
                held[key.decode()] = sorted(text[at : at + 13] for at in range(0, len(text), 13))
            elif family not in (b"s:", b"x:"):
                held[key.decode()] = client.hgetall(key)
    return held


def expiries(url: str) -> dict[str, int]:
    with store_client(url, 5.0) as client:
        return {key.decode(): client.expiretime(key) for key in client.scan_iter("[bdpcf]:*", count=1000)}


def test_a_cluster_does_what_one_server_does(settings: Settings, clustered: Settings) -> None:
    """Chunks of random scans with repetitions, cases, flags and erased persons, larger than a call takes."""
    chance = random.Random(5)
    now, hour = now_ms(), now_ms() // HOUR
    venues = [f"CDEF{first}{second}" for first in ALPHABET[:4] for second in ALPHABET[:10]]
    people = [person(number) for number in range(1, 300)]
    chunks = [
        [
            MarkRow(
                f"scan-{chance.randrange(3000)}",
                chance.choice(people),
                chance.choice(venues),
                hour - chance.randrange(3),
                chance.randrange(60),
                chance.randrange(3),
            )
            for _ in range(size)
        ]
        for size in (1, 7, 900, 40_000)
    ]
    chunks.append(chunks[2])  # delivered again
    cases = [
        Case(
            case_id=f"k{number}",
            version=1,
            status="confirmed",
            person=people[number],
            infectious_from=now - HOUR,
            infectious_to=now + HOUR,
        )
        for number in range(8)
    ]

    async def work(store: Store) -> tuple[list[Ingested], list[Any]]:
        seen: list[Any] = []
        for number, case in enumerate(cases):
            seen += [await store.set_case(case, now), await store.set_person_case(case, now)]
            seen.append(await store.set_flag(venues[number], case, None, [], now))
        for who in people[-5:]:
            await store.refuse_marks(who, hour - 1, now // 1000 + 3600, now)
            await store.refuse_index(who, hour - 1, now // 1000 + 3600, now)
        found = [await store.add_scans(Marks.of(rows), venues) for rows in chunks]
        seen += [await store.index_of(who, hour) for who in people[:9]]
        seen += [await store.marks(venue, range(hour - 3, hour + 1), None) for venue in venues]
        seen += [await store.flagged(venue) for venue in venues]
        return found, seen

    one, many = within(settings.redis_url, work), within(clustered.redis_url, work)
    assert set(one[0][3].verdicts) == set("nde") and "r" in one[0][4].verdicts
    assert one[0][3].flags.keys() == set(venues[:8])
    assert one[0][3].cases.keys() == set(people[:8])
    assert many[0] == one[0]
    assert [sorted(each) if isinstance(each, list) else each for each in many[1][24:33]] == [
        sorted(each) if isinstance(each, list) else each for each in one[1][24:33]
    ]
    assert many[1][33:73] == one[1][33:73]
    held = contents(clustered.redis_url)
    assert held == contents(settings.redis_url)
    assert expiries(clustered.redis_url) == expiries(settings.redis_url)
    with store_client(clustered.redis_url, 5.0) as client:
        nodes = [client.get_node_from_key(key).port for key in held]
    assert len(set(nodes)) == 3


def test_an_address_of_the_wrong_kind_is_one_clear_line(
    settings: Settings, redis_nodes: redis_cluster.Nodes
) -> None:
    as_one = f"redis://127.0.0.1:{redis_nodes.ports[0]}/0"
    as_cluster = settings.redis_url.replace("redis://", "redis+cluster://").rpartition("/")[0]
    for url, words in ((as_one, r"redis\+cluster://host:port"), (as_cluster, "redis://host:port")):
        with pytest.raises(health.NotHealthyError, match=words):
            health.redis_answers(url)
        with pytest.raises(RedisError, match=words):
            within(url, lambda store: store.flagged("CDEF"))
    health.redis_answers(redis_nodes.url)
    health.redis_answers(settings.redis_url)


def test_a_cluster_that_is_away_is_one_clear_line(redis_nodes: redis_cluster.Nodes) -> None:
    nobody, _ = local.free_ports(2)
    away = f"redis+cluster://127.0.0.1:{nobody}"
    with pytest.raises(RedisError, match=str(nobody)):
        store_client(away, 1.0)
    with pytest.raises(health.NotHealthyError, match=str(nobody)):
        health.redis_answers(away)
    with store_client(f"{away},127.0.0.1:{redis_nodes.ports[0]}", 1.0) as client:  # the other one tells
        assert store_status(client).most == 0


@dataclass
class Cluster:
    """A cluster whose nodes can be killed."""

    nodes: redis_cluster.Nodes
    running: dict[int, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(self, node: int) -> None:
        log = self.nodes.folder / f"{node}.log"
        with log.open("ab") as output:
            self.running[node] = local.start(self.nodes.launch(node), output)
        assert local.wait_until(self.nodes.launch(node).answers, 20) is None, log.read_text()

    def kill(self, node: int) -> None:
        process = self.running.pop(node)
        process.kill()
        process.wait(10)


@contextmanager
def cluster_of_its_own(folder: Path, count: int) -> Iterator[Cluster]:
    there = Cluster(redis_cluster.nodes(folder, count))
    folder.mkdir()
    try:
        for node in range(count):
            there.start(node)
        redis_cluster.form(there.nodes)
        yield there
    finally:
        for process in there.running.values():
            local.end(process, 5)


def test_a_node_that_is_killed_is_waited_for_and_one_that_is_wiped_is_rebuilt(
    settings: Settings, tmp_path: Path
) -> None:
    start = now_ms() // HOUR * HOUR - 30 * HOUR
    with cluster_of_its_own(tmp_path / "nodes", 3) as cluster:
        own = settings.model_copy(update={"redis": cluster.nodes.url})
        with installed(own, tmp_path, *ROLES) as there:
            there.supervised = True
            market, cafe = there.venue(), there.venue()
            crowd(there, market, range(1, 60), start, 45)
            there.case(person=person(1), infectious_from=start, infectious_to=now_ms() + HOUR)
            there.settle(ROLES)
            there.wait(lambda: len(there.exposed()) == 58, "exposures")
            epoch = state(own)[b"epoch"]

            cluster.kill(1)
            crowd(there, market, range(60, 100), start, 45)
            crowd(there, cafe, range(1, 100), start + HOUR, 45)
            there.flush()
            there.wait(lambda: "ingest" in there.deaths, "ingest ends: a part of the store is away")
            cluster.start(1)
            there.settle(ROLES)
            assert state(own)[b"epoch"] == epoch  # its file has all of it: nothing was lost, nothing rebuilt
            there.wait(lambda: len(there.exposed()) == 98 * 2, f"everybody: {len(there.exposed())}")
            held = buckets(own.redis_url)

            cluster.kill(1)
            shutil.rmtree(cluster.nodes.folder / str(cluster.nodes.ports[1]) / "appendonlydir")
            cluster.start(1)
            crowd(there, cafe, range(100, 120), start + HOUR, 45)
            there.flush()
            there.wait(lambda: rebuilt(own, epoch), "noticed and rebuilt", 90)
            there.settle(ROLES)
            assert held.keys() <= buckets(own.redis_url).keys()
            there.wait(lambda: len(there.exposed()) == 98 * 2 + 20, f"and more: {len(there.exposed())}")


def told(client: Any, *words: Any) -> Any:
    """What a node answers to a command."""
    return client.execute_command(*words)


def slot_to(cluster: Cluster, slot: int, source: int, target: int) -> None:
    """The end of a move: every node is told the new owner."""
    with cluster.nodes.client(target) as client:
        name = told(client, "CLUSTER MYID").decode()
    for node in (target, source):
        with cluster.nodes.client(node) as client:
            told(client, "CLUSTER SETSLOT", slot, "NODE", name)


def test_a_slot_that_moves_is_waited_for_and_a_new_owner_ends_the_worker(tmp_path: Path) -> None:
    hour = now_ms() // HOUR
    layout = Layout(SHARDS, 30)
    venue = next(f"CDEF{n}{m}" for n in ALPHABET for m in ALPHABET if layout.shard(f"CDEF{n}{m}") == 3)
    rows = [MarkRow(f"s{n}", person(n), venue, hour - n % 3, n % 60, 0) for n in range(500)]
    with cluster_of_its_own(tmp_path / "nodes", 2) as cluster:
        source, target = cluster.nodes.client(0), cluster.nodes.client(1)
        slot = told(source, "CLUSTER KEYSLOT", "s:{3}")
        assert slot < 8192  # of the first node

        async def moved() -> Ingested:
            store = store_at(cluster.nodes.url)
            await store.open({})
            await store.add_scans(Marks.of(rows[:200]), [venue])
            names = [told(client, "CLUSTER MYID").decode() for client in (source, target)]
            told(target, "CLUSTER SETSLOT", slot, "IMPORTING", names[0])
            told(source, "CLUSTER SETSLOT", slot, "MIGRATING", names[1])
            keys = told(source, "CLUSTER GETKEYSINSLOT", slot, 1000)
            assert "s:{3}" in keys and len(keys) > 10

            def move(some: list[str]) -> None:
                words = ("127.0.0.1", cluster.nodes.ports[1], "", 0, 5000, "KEYS", *some)
                assert told(source, "MIGRATE", *words) == b"OK"

            move(keys[::2])
            adding = asyncio.create_task(store.add_scans(Marks.of(rows), [venue]))
            await asyncio.sleep(0.5)
            assert not adding.done()  # neither refused nor sent to where half of the keys are
            assert set(target.scan_iter("?:{3}*")) == {key.encode() for key in keys[::2]}
            move(keys[1::2])
            slot_to(cluster, slot, 0, 1)
            with pytest.raises(StoreLostError, match="another node"):
                await adding
            await store.close()
            return await _again(store_at(cluster.nodes.url))

        async def _again(store: Store) -> Ingested:
            assert (await store.open({})).status == READY  # nothing was lost
            try:
                return await store.add_scans(Marks.of(rows), [venue])
            finally:
                await store.close()

        found = asyncio.run(moved())
        assert len(found.verdicts) == 500
        assert set(found.verdicts[:200]) == {"r"}
        held = within(cluster.nodes.url, lambda store: store.marks(venue, range(hour - 3, hour + 1), None))
        assert len(held) == 500

        # a new owner that lacks what the old one had: a replica that was behind
        target.delete(*target.keys("?:{3}*"))
        slot_to(cluster, slot, 1, 0)

        async def reopened() -> str:
            store = store_at(cluster.nodes.url)
            found = await store.open({"scans/0": 5})
            await store.close()
            return f"{found.status}: {found.reason}"

        assert asyncio.run(reopened()) == "lost: a shard of Redis holds nothing"
        source.close()
        target.close()


def test_every_node_counts_for_how_full_it_is(redis_nodes: redis_cluster.Nodes) -> None:
    redis_nodes.empty()
    with redis_nodes.client(2) as client, store_client(redis_nodes.url, 5.0) as looking:
        assert not store_status(looking).full
        client.config_set("maxmemory", int(client.info("memory")["used_memory"] * 1.01))
        try:
            assert store_status(looking).full
        finally:
            client.config_set("maxmemory", 0)


def test_a_shard_that_is_wiped_is_noticed_while_nothing_is_to_do(redis_nodes: redis_cluster.Nodes) -> None:
    redis_nodes.empty()

    async def work(store: Store) -> None:
        assert (await store.guard.state()).status == READY
        with redis_nodes.client(0) as client:
            client.flushall()
        with pytest.raises(StoreLostError):
            await store.guard.state()

    began = time.monotonic()
    within(redis_nodes.url, work)
    assert time.monotonic() - began < 30
