"""However few days the matcher reads at a time, what it publishes is what the rules say, minute by minute."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable, Sequence
from typing import Any, cast

import orjson
import pytest

from producers.cases import make_case
from schemas.events import Case, Venue
from schemas.settings import Settings
from stream_processors import matcher
from stream_processors.layout import KINDS, Layout
from stream_processors.matcher import Matcher, MatcherTopics
from stream_processors.metrics import Metrics
from stream_processors.outputs import Out
from stream_processors.requests import MarkRow, Marks
from stream_processors.servers import connect
from stream_processors.store import Store
from stream_processors.touches import Touch
from stream_processors.venues import Register
from tests.lookups import oracle
from tests.stream.harness import HOUR, MINUTE, now_ms, person

pytestmark = pytest.mark.engines

PLACE = Venue(
    code="CDEFHK", name="chợ", sector="trade", district="hue", department="so-cong-thuong", dwell=60
)
INDEX = person(1)
DAYS = 12


class _Venues:
    """A register of one place."""

    register = Register()

    async def get(self, code: str) -> Venue:
        return PLACE

    async def fresh(self) -> None:
        pass


class _Published:
    """Remembers the last record of each key."""

    def __init__(self) -> None:
        self.exposures: dict[bytes, dict[str, Any]] = {}

    def begin_ownership(self) -> None:
        pass

    def send(self, records: Sequence[Out]) -> None:
        for record in records:
            if record.topic == "exposures" and record.key and record.value:
                new, old = orjson.loads(record.value), self.exposures.get(record.key)
                assert old is None or new["version"] > old["version"]
                self.exposures[record.key] = new

    def standing(self) -> dict[tuple[str, int], int]:
        """(person, first minute) → minutes."""
        return {
            (each["person"], each["first"] // MINUTE): each["minutes"]
            for each in self.exposures.values()
            if each["status"] == "exposed"
        }


def _stays(chance: random.Random, who: int, first: int) -> set[oracle.AMark]:
    """Visits on some of the days, some of them left properly, some over midnight."""
    marks: set[oracle.AMark] = set()
    for day in range(DAYS):
        if chance.random() < 0.5:
            at = first + day * 1440 + chance.randrange(1440)
            marks.add((person(who), PLACE.code, at, "in"))
            if chance.random() < 0.5:
                marks.add((person(who), PLACE.code, at + chance.randrange(1, 800), "out"))
    return marks


def _expected(marks: Iterable[oracle.AMark], case: Case) -> dict[tuple[str, int], int]:
    window = range(case.start // MINUTE, case.end // MINUTE)
    dwells = {PLACE.code: PLACE.dwell}
    found = oracle.contacts(set(marks), dwells, INDEX, window, case.min_overlap)
    return {(who, first): minutes for who, _, _, minutes, first, _ in found}


@pytest.mark.parametrize(
    ("run", "entries", "named"), [(1, 1, 1), (1, 60, 500), (4, 5, 2), (4, 50_000, 1), (4, 50_000, 500)]
)
def test_pieces_say_the_same_as_the_whole(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, run: int, entries: int, named: int
) -> None:
    monkeypatch.setattr(matcher, "_DAYS_AT_A_TIME", run)
    monkeypatch.setattr(matcher, "_ENTRIES_AT_A_TIME", entries)
    monkeypatch.setattr(matcher, "_NAMED_AT_A_TIME", named)
    now = now_ms()
    first = now // MINUTE - (DAYS + 2) * 1440

    def version(number: int, start: int, end: int) -> Case:
        return make_case(
            case_id="k1",
            version=number,
            status="confirmed",
            person=INDEX,
            infectious_from=(first + start) * MINUTE,
            infectious_to=(first + end) * MINUTE,
            min_overlap=15,
        )

    async def story(seed: int) -> None:
        chance, published = random.Random(seed), _Published()
        store = Store(connect(settings.redis_url), Layout(16, 30), lambda: now, lambda _: None)
        await store.open({})
        own = Matcher(
            store=store,
            venues=cast(Any, _Venues()),
            producer_for=lambda _: cast(Any, published),
            topics=MatcherTopics("touched", "exposures", "warnings"),
            clock_ms=lambda: now,
            metrics=Metrics(),
        )
        known: set[oracle.AMark] = set()

        async def add(marks: set[oracle.AMark]) -> None:
            known.update(marks)
            rows = [
                MarkRow(f"{who}{at}{kind}", who, venue, at // 60, at % 60, KINDS[kind])
                for who, venue, at, kind in sorted(marks, key=lambda mark: mark[2])
            ]
            await store.add_scans(Marks.of(rows), [])

        for who in range(1, 6):
            await add(_stays(chance, who, first))
        case = version(1, 0, DAYS * 1440)
        hours = frozenset(at // 60 for who, _, at, _ in known if who == INDEX)
        told = Touch(PLACE.code, case, persons=None, hours=hours if seed else None)
        await own.process(0, [told])
        assert published.standing() == _expected(known, case)
        late = set().union(*(_stays(chance, who, first) for who in (7, 8, 9)))
        await add(late)
        touch = Touch(PLACE.code, case)
        for newcomer, _, at, _ in late:
            touch.add(newcomer, at)
        await own.process(0, [touch])
        assert published.standing() == _expected(known, case)
        for case in (version(2, 3_000, 9_000), version(3, 8_000, 8_100), version(4, 100, 15_000)):
            for where in (hours, None):  # known where to look, or not
                await own.process(0, [Touch(PLACE.code, case, persons=None, hours=where)])
                assert published.standing() == _expected(known, case)
        # marks that came after the hours were read raise a touch of their own
        case, more = version(5, 0, DAYS * 1440), _stays(chance, 1, first) - known
        await add(more)
        touch = Touch(PLACE.code, case)
        for _, _, at, _ in more:
            touch.add(None, at)
        told = Touch(PLACE.code, case, persons=None, hours=hours)
        for touches in ([touch], [told]) if chance.random() < 0.5 else ([told], [touch]):
            await own.process(0, touches)
        assert published.standing() == _expected(known, case)
        await store.close()

    for seed in range(2):
        asyncio.run(_emptied(settings, story(seed)))


async def _emptied(settings: Settings, story: Any) -> None:
    servers = connect(settings.redis_url)
    for redis in await servers.all():
        await redis.flushdb()
    await servers.aclose()
    await story


def test_the_case_is_looked_for_where_it_was_told_and_in_days_that_the_index_was_not_asked_for() -> None:
    now, window = now_ms(), range(now_ms() // HOUR - 300, now_ms() // HOUR + 100)
    case = make_case(
        case_id="k1",
        version=1,
        status="confirmed",
        person=INDEX,
        infectious_from=now - HOUR,
        infectious_to=now,
    )

    def looked_at(hours: frozenset[int] | None) -> set[int]:
        touch = Touch(PLACE.code, case, persons=None, hours=hours)
        return {hour for stretch in matcher._told(touch, window, now) for hour in stretch}

    ahead = set(range(now // HOUR + 1, window.stop))
    assert looked_at(None) == set(window)
    assert looked_at(frozenset()) == ahead
    here = frozenset({window.start + 5, window.start + 6, window.start + 40})
    assert looked_at(here | {window.start - 1}) == ahead | here
