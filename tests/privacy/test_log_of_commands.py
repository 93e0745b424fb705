"""What is erased is gone from Redis' log of commands too, also when one is being written already."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as AwayError
from redis.exceptions import ResponseError

from deploy import erasure
from schemas.settings import Settings


class _Server:
    """Answers BGREWRITEAOF so often with an error, then with success."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.begun = 0

    async def bgrewriteaof(self) -> Any:
        if self.errors:
            raise self.errors.pop(0)
        self.begun += 1


def told_by(server: _Server) -> list[str]:
    told: list[str] = []
    asyncio.run(erasure.write_log_anew(cast("Redis", server), told.append))
    return told


@pytest.mark.engines
def test_a_real_redis_writes_its_log_anew(settings: Settings) -> None:
    async def rewrites(redis: Redis) -> int:
        info = await redis.info("persistence")
        return int(info["aof_rewrites"])

    async def everything() -> None:
        redis = Redis.from_url(settings.redis_url)
        told: list[str] = []
        try:
            before = await rewrites(redis)
            for _ in range(2):  # the second may meet the first
                await erasure.write_log_anew(redis, told.append)
            deadline = asyncio.get_running_loop().time() + 30
            while await rewrites(redis) < before + 2:
                assert asyncio.get_running_loop().time() < deadline
                await asyncio.sleep(0.1)
        finally:
            await redis.aclose()
        assert told == []

    asyncio.run(everything())


def test_one_that_is_under_way_does_not_count() -> None:
    busy = "Background append only file rewriting already in progress"
    server = _Server(ResponseError(busy), ResponseError(busy))
    assert told_by(server) == []
    assert server.begun == 1


def test_what_is_left_to_do_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(erasure, "_REWRITE_S", 0.5)
    for server in (_Server(AwayError("away")), _Server(*[ResponseError("busy")] * 100)):
        (line,) = told_by(server)
        assert "run BGREWRITEAOF" in line
        assert server.begun == 0
