"""How Redis stands, for people: whole or lost, how far a rebuild is, how full it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from redis import Redis, RedisCluster
from redis.backoff import NoBackoff
from redis.exceptions import RedisClusterException, RedisError
from redis.retry import Retry

from schemas.settings import redis_cluster

_FULL: Final = 0.95


@dataclass(frozen=True, slots=True)
class StoreStatus:
    """`whole`: it holds all that was acknowledged. `used` and `most` bytes (`most` 0: no bound)."""

    whole: bool
    words: str
    since: int
    used: int
    most: int
    step: str = ""
    done: int = 0
    total: int = 0

    @property
    def full(self) -> bool:
        """Whether it refuses to grow, or soon will: then ingest waits. What a command takes for itself while
        it runs counts too, so it refuses some way below the bound."""
        return bool(self.most) and self.used >= _FULL * self.most

    @property
    def memory(self) -> str:
        """Used and most, in words."""
        bound = f"of {self.most / 1e6:,.0f} MB" if self.most else "without a bound"
        note = "; full or nearly: scans wait in Kafka, give it more maxmemory" if self.full else ""
        return f"{self.used / 1e6:,.0f} MB {bound}{note}"


def store_client(url: str, seconds: float) -> Redis | RedisCluster:
    """A client that gives up after so long, to look with. Raises redis.RedisError."""
    nodes = redis_cluster(url)
    if nodes is None:
        return Redis.from_url(url, socket_timeout=seconds, socket_connect_timeout=seconds)
    refusal = RedisError("no node is named")
    for node in nodes:
        try:
            return RedisCluster.from_url(
                node, socket_timeout=seconds, socket_connect_timeout=seconds, retry=Retry(NoBackoff(), 0)
            )
        except (RedisError, RedisClusterException) as error:
            refusal = RedisError(str(error))
    raise refusal


def store_status(redis: Redis | RedisCluster) -> StoreStatus:
    """Ask Redis. Raises redis.RedisError. Of a cluster, the memory is that of the node that is fullest: it
    is what ingest waits for."""
    told: Any = redis.hgetall("s:{0}")
    fields = {name.decode(): value.decode() for name, value in told.items()}
    if isinstance(redis, RedisCluster):
        said: Any = redis.info("memory", target_nodes=RedisCluster.PRIMARIES)
        memories = list(said.values())
    else:
        memories = [redis.info("memory")]
    used, most = max(
        ((int(each["used_memory"]), int(each.get("maxmemory", 0))) for each in memories),
        key=lambda each: (each[0] / each[1] if each[1] else 0.0, each[0]),
    )
    since = int(fields.get("since", 0))
    if "epoch" not in fields:
        # new, or lost: the next worker that starts knows, by what Kafka says was acknowledged
        return StoreStatus(True, "no worker has begun with this Redis yet", since, used, most)
    if fields.get("status") == "ready":
        return StoreStatus(True, "Redis holds all that was acknowledged", since, used, most)
    step, done, total = fields.get("step", ""), int(fields.get("done", 0)), int(fields.get("total", 0))
    far = f": {step} {done}/{total}" if total else f": {step}" if step else ", not begun"
    words = f"matching is degraded ({fields.get('reason', '')}); the rebuild{far}"
    return StoreStatus(False, words, since, used, most, step, done, total)
