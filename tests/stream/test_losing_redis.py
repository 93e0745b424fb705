"""Redis wiped, restarted, restored from an old file, full: noticed, rebuilt, and nothing said wrongly."""

from __future__ import annotations

import itertools
import shutil
import time
from pathlib import Path

import orjson
import pytest
import redis
from clickhouse_driver import Client

from deploy.local import engines as local
from deploy.local.store import store_client, store_status
from deploy.rebuild import rebuild
from schemas import topics
from schemas.settings import Settings
from tests.stream.harness import HOUR, MINUTE, Installation, installed, now_ms, person, redis_of_its_own

pytestmark = pytest.mark.engines

ROLES = ("ingest", "cases", "matcher", "archive")


def buckets(url: str) -> dict[tuple[str, str, int], bytes]:
    """(venue, person, hour) → the mark bytes that Redis holds, without tags."""
    found: dict[tuple[str, str, int], bytes] = {}
    with store_client(url, 5.0) as client:
        for key in client.scan_iter("[bd]:*", count=1000):
            family, _, venue, hour = key.decode().split(":")
            hour = hour[:-1] if family == "d" else hour
            entries = b"".join(client.hvals(key))
            for at in range(0, len(entries), 13):
                whose = venue, entries[at : at + 8].hex(), int(hour)
                found[whose] = bytes(sorted(found.get(whose, b"") + entries[at + 8 : at + 9]))
    return found


def rebuilt(settings: Settings, epoch: bytes) -> bool:
    """Whether the store is of another epoch, and whole. In one look: between two it may be found lost."""
    now = state(settings)
    return now.get(b"epoch") not in (None, epoch) and now.get(b"status") == b"ready"


def crowd(there: Installation, venue: str, people: range, start: int, minutes: int) -> None:
    for number in people:
        there.scan(person(number), venue, start + (number % 7) * MINUTE)
        there.scan(person(number), venue, start + minutes * MINUTE, kind="out")


def test_a_wiped_redis_is_noticed_rebuilt_and_what_became_due_is_published(
    settings: Settings, tmp_path: Path
) -> None:
    with installed(settings, tmp_path, *ROLES) as there:
        there.supervised = True
        market, cafe = there.venue(), there.venue(dwell=30)
        start = now_ms() // HOUR * HOUR - 26 * HOUR
        crowd(there, market, range(1, 200), start, 45)
        case = there.case(
            case_id="k1", person=person(1), infectious_from=start - HOUR, infectious_to=now_ms() + HOUR
        )
        there.settle(("ingest", "cases", "matcher", "archive"))
        there.wait(lambda: len(there.exposed()) == 198, "exposures before")
        before, held = there.last(topics.EXPOSURES), buckets(settings.redis_url)
        epoch = state(settings)[b"epoch"]

        with redis.Redis.from_url(settings.redis_url) as client:
            client.flushdb()
        # what comes while it is lost: new scans of the case and others, a version, a correction
        crowd(there, cafe, range(1, 50), start + 3 * HOUR, 40)
        there.scan(person(77), market, start + 10 * MINUTE, kind="out")
        there.send(
            topics.CASES,
            orjson.dumps(orjson.loads(case.to_json()) | {"version": 2, "min_overlap": 20}),
            "k1",
        )
        there.flush()
        there.wait(lambda: rebuilt(settings, epoch), "a rebuild", 90)
        there.settle(("ingest", "cases", "matcher", "archive"))

        now = buckets(settings.redis_url)
        assert all(set(marks) <= set(now[key]) for key, marks in held.items())
        assert archived(settings) == buckets(settings.redis_url)
        exposed = there.exposed()
        assert {key[2] for key in exposed} == {market, cafe}
        assert len([key for key in exposed if key[2] == market]) == 197  # 77 left after 10 minutes
        assert ("k1", person(77), market) not in exposed
        after = there.last(topics.EXPOSURES)
        assert all(entry["case_version"] == 2 for entry in after.values())
        assert all(after[key]["version"] > entry["version"] for key, entry in before.items())


def state(settings: Settings) -> dict[bytes, bytes]:
    with store_client(settings.redis_url, 5.0) as client:
        found: dict[bytes, bytes] = client.hgetall("s:{0}")
        return found


def archived(settings: Settings) -> dict[tuple[str, str, int], bytes]:
    client = Client.from_url(settings.clickhouse_url)
    rows = client.execute(
        "SELECT venue, person, hour, groupBitOr(ins), groupBitOr(outs), groupBitOr(voids) FROM visits"
        " GROUP BY venue, person, hour"
    )
    client.disconnect()
    return {
        (venue, f"{who:016x}", hour): bytes(
            sorted(
                kind << 6 | minute
                for kind, mask in enumerate(masks)
                for minute in range(60)
                if mask >> minute & 1
            )
        )
        for venue, who, hour, *masks in rows
    }


def test_a_restart_loses_nothing_and_an_old_file_is_noticed(settings: Settings, tmp_path: Path) -> None:
    (port,) = local.free_ports(1)
    own = settings.model_copy(update={"redis": f"redis://127.0.0.1:{port}/0"})
    data, old = tmp_path / "redis", tmp_path / "old"
    start = now_ms() // HOUR * HOUR - 30 * HOUR
    with installed(own, tmp_path, *ROLES) as there:
        there.supervised = True
        market = there.venue()
        with redis_of_its_own(data, port) as server:
            crowd(there, market, range(1, 60), start, 45)
            there.case(person=person(1), infectious_from=start, infectious_to=now_ms() + HOUR)
            there.settle(ROLES)
            there.wait(lambda: len(there.exposed()) == 58, "exposures")
            epoch = state(own)[b"epoch"]
            server.kill()
            server.wait(10)
        shutil.copytree(data, old)
        with redis_of_its_own(data, port):
            crowd(there, market, range(60, 100), start + HOUR, 45)
            there.settle(ROLES)
            there.wait(lambda: len(there.exposed()) > 58 or bool(there.deaths), "the workers begin again")
            there.settle(ROLES)
            assert state(own)[b"epoch"] == epoch  # killed and restarted: nothing was lost, nothing rebuilt
            assert state(own)[b"status"] == b"ready"
            held = buckets(own.redis_url)
            assert len({key[1] for key in held}) == 99
        shutil.rmtree(data)
        shutil.copytree(old, data)
        with redis_of_its_own(data, port):
            assert len({key[1] for key in buckets(own.redis_url)}) == 59  # the old file
            # person 1 stayed another hour: everybody of the second hour met the case
            there.scan(person(1), market, start + HOUR - 2 * MINUTE)
            there.scan(person(1), market, start + 2 * HOUR, kind="out")
            there.flush()
            there.wait(
                lambda: rebuilt(own, epoch),
                "the old file is noticed, and rebuilt",
                90,
            )
            there.settle(ROLES)
            there.wait(lambda: len(there.exposed()) == 98, f"everybody of both hours: {len(there.exposed())}")
            assert held.keys() <= buckets(own.redis_url).keys()
            there.last(topics.EXPOSURES)  # versions never fall


def test_what_an_earlier_version_laid_out_goes_away_and_is_rebuilt(
    settings: Settings, tmp_path: Path
) -> None:
    with installed(settings, tmp_path, *ROLES) as there:
        market, start = there.venue(), now_ms() // HOUR * HOUR - 26 * HOUR
        crowd(there, market, range(1, 40), start, 45)
        case = {"person": person(1), "infectious_from": start, "infectious_to": now_ms() + HOUR}
        there.case(**case)
        there.settle(ROLES)
        held, epoch = buckets(settings.redis_url), state(settings)[b"epoch"]
        there.stop()
        with redis.Redis.from_url(settings.redis_url) as client:
            for key in client.keys("b:*"):
                for number in range(1, 40):  # a field a person, with 5 bytes a mark
                    client.hset(b"v" + key[1:], bytes.fromhex(person(number)), b"\x05tagg")
                client.delete(key)
            client.hset("s:{0}", "layout", "2")
        there.supervised = True
        there.start(*ROLES)
        there.wait(lambda: rebuilt(settings, epoch), "a rebuild", 90)
        there.case(version=2, min_overlap=20, **case)
        there.settle(ROLES)
        assert buckets(settings.redis_url) == held
        assert {who for _, who, _ in there.exposed()} == {person(number) for number in range(2, 40)}
        with redis.Redis.from_url(settings.redis_url) as client:
            assert client.keys("v:*") == []


def test_a_full_redis_is_waited_for(settings: Settings, tmp_path: Path) -> None:
    (port,) = local.free_ports(1)
    own = settings.model_copy(update={"redis": f"redis://127.0.0.1:{port}/0"})
    start = now_ms() // HOUR * HOUR - 5 * HOUR
    with (
        redis_of_its_own(tmp_path / "redis", port, maxmemory="6mb"),
        installed(own, tmp_path, "ingest") as there,
    ):
        venues = [there.venue() for _ in range(4)]
        sent = 0

        def stands_still() -> bool:
            before = there.lag("ingest")
            if not before or "Redis is full" not in there.tail("ingest"):
                return False
            time.sleep(3)
            return before == there.lag("ingest")

        with redis.Redis.from_url(own.redis_url) as client:
            for number in itertools.count():
                crowd(there, venues[number % 4], range(number * 2000, number * 2000 + 2000), start, 30)
                sent += 4000
                there.flush()
                there.wait(lambda: there.lag("ingest") == 0 or stands_still(), "neither done nor full")
                if there.lag("ingest"):
                    break
            assert store_status(client).full
            assert there.running["ingest"].poll() is None
            client.config_set("maxmemory", "200mb")
        there.settle(("ingest",))
        visits = [visit["scan_id"] for values in there.values(topics.VISITS) for visit in values]
        assert len(set(visits)) == sent
        assert len(buckets(own.redis_url)) == sent // 2


def test_nothing_is_rebuilt_when_nothing_is_lost(settings: Settings, tmp_path: Path) -> None:
    with installed(settings, tmp_path, "ingest", "cases") as there:
        there.scan(person(1), there.venue(), now_ms())
        there.settle(("ingest",))
    assert rebuild(settings) is False
