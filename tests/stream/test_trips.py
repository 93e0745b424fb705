"""Calls of scripts that are made at the same moment leave in one trip; each has its own reply or error."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.exceptions import NoScriptError, OutOfMemoryError, ResponseError

from stream_processors import scripts
from stream_processors.scripts import Scripts
from stream_processors.servers import Keyed, Servers, StoreLostError


class Recorded(Servers):
    """Answers every command with its last key, or as `answer` says; remembers the trips."""

    clustered = False

    def __init__(self, answer: Callable[[str, int], Any] = lambda key, trip: key) -> None:
        self.trips: list[list[str]] = []
        self._answer = answer

    async def execute(self, commands: Sequence[Keyed]) -> list[Any]:
        await asyncio.sleep(0)
        self.trips.append([str(command[3]) for _, command in commands])
        return [self._answer(str(command[3]), len(self.trips)) for _, command in commands]

    async def of(self, key: str) -> Redis:
        raise NotImplementedError

    async def all(self) -> list[Redis]:
        return []

    async def aclose(self) -> None:
        pass


def called(servers: Servers, count: int, heard: Callable[[bool], None] = lambda full: None) -> list[Any]:
    """What so many calls of one moment bring, errors as values."""

    async def run() -> list[Any]:
        own = Scripts(servers, heard)
        return await asyncio.gather(
            *(own.run("read_marks", [f"b:{{0}}:{number}"], []) for number in range(count)),
            return_exceptions=True,
        )

    return asyncio.run(run())


def test_calls_of_one_moment_leave_together() -> None:
    servers = Recorded()
    assert called(servers, 40) == [f"b:{{0}}:{number}" for number in range(40)]
    assert [len(trip) for trip in servers.trips] == [16, 16, 8]


def test_an_error_is_the_one_calls_alone() -> None:
    lost, wrong = ResponseError("STORELOST other epoch"), ResponseError("WRONGTYPE")
    servers = Recorded(lambda key, _: {"b:{0}:1": lost, "b:{0}:2": wrong}.get(key, "fine"))
    first, second, third, fourth = called(servers, 4)
    assert (first, fourth) == ("fine", "fine")
    assert isinstance(second, StoreLostError)
    assert third is wrong


def test_only_what_a_full_redis_refused_is_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scripts, "_FULL_PAUSE_S", 0.0)
    full = OutOfMemoryError("OOM")
    servers = Recorded(lambda key, trip: full if key == "b:{0}:1" and trip < 3 else trip)
    heard: list[bool] = []
    assert called(servers, 3, heard.append) == [1, 3, 1]
    assert [len(trip) for trip in servers.trips] == [3, 1, 1]
    assert heard == [True, False]


def test_scripts_that_were_flushed_are_made_known_again() -> None:
    servers = Recorded(lambda key, trip: NoScriptError("NOSCRIPT") if trip == 1 else key)
    assert called(servers, 2) == ["b:{0}:0", "b:{0}:1"]
    assert len(servers.trips) == 2


def test_a_broken_trip_is_everybodys_error() -> None:
    class Away(Recorded):
        async def execute(self, commands: Sequence[Keyed]) -> list[Any]:
            raise ConnectionError("away")

    assert [str(error) for error in called(Away(), 3)] == ["away"] * 3


def test_whoever_gave_up_does_not_disturb_the_others() -> None:
    async def run() -> Any:
        own = Scripts(Recorded(), lambda full: None)
        gone, stays = (asyncio.ensure_future(own.run("read_marks", [f"b:{{0}}:{n}"], [])) for n in (0, 1))
        await asyncio.sleep(0)
        gone.cancel()
        return await stays

    assert asyncio.run(run()) == "b:{0}:1"
