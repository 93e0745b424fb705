"""Is a server there? One question each to Kafka, Redis, ClickHouse and a role's /healthz."""

from __future__ import annotations

import logging
import urllib.error
import urllib.request

import redis
from clickhouse_driver import Client
from clickhouse_driver.errors import Error as ClickHouseError
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from schemas.settings import Settings, redis_cluster, where_to_look

# A health question that hangs would hide that the server does: each is given up after this many seconds.
PATIENCE = 3.0


class NotHealthyError(RuntimeError):
    """A server does not answer; the message says in a line how it refused."""


def admin(address: str) -> AdminClient:
    """An admin client that stays quiet while a broker is away: the caller says it once, in words."""
    return AdminClient(
        {
            "bootstrap.servers": address,
            "socket.connection.setup.timeout.ms": 5000,
            "log_level": 0,
        },
        logger=None,
    )


def kafka_answers(address: str, seconds: float = PATIENCE) -> None:
    """Raises NotHealthyError unless a broker gives its metadata and a controller is elected."""
    try:
        metadata = admin(address).list_topics(timeout=seconds)
    except KafkaException as error:
        raise NotHealthyError(f"Kafka at {address}: {error.args[0].str()}") from None
    if not metadata.brokers:
        raise NotHealthyError(f"Kafka at {address}: no broker is registered yet")


def redis_answers(url: str, seconds: float = PATIENCE) -> None:
    """Raises NotHealthyError unless Redis says PONG (while it loads its file it does not); of a cluster,
    unless every node that the URL names holds it for whole."""
    cluster = redis_cluster(url)
    for node in [url] if cluster is None else cluster:
        node_answers(node, seconds, clustered=cluster is not None)


def node_answers(url: str, seconds: float = PATIENCE, clustered: bool | None = None) -> None:
    """Raises NotHealthyError unless one Redis says PONG, and is (or is not) a node of a whole cluster."""
    client = redis.Redis.from_url(url, socket_timeout=seconds, socket_connect_timeout=seconds, retry=None)
    try:
        client.ping()
        if clustered is not None and bool(client.info("cluster")["cluster_enabled"]) != clustered:
            kind = (
                "no cluster: set TRUYVET_REDIS=redis://" if clustered else "a cluster: set redis+cluster://"
            )
            raise NotHealthyError(f"Redis at {without_password(url)} is {kind}host:port")
        if clustered and client.cluster("info")["cluster_state"] != "ok":
            raise NotHealthyError(f"Redis at {without_password(url)}: its cluster is not whole")
    except redis.RedisError as error:
        raise NotHealthyError(f"Redis at {without_password(url)}: {error}") from None
    finally:
        client.close()


def clickhouse_answers(url: str, seconds: float = PATIENCE) -> None:
    """Raises NotHealthyError unless ClickHouse answers SELECT 1."""
    # it writes each refusal to its log too, with a stack trace: the caller says it once, in words
    logging.getLogger("clickhouse_driver.connection").setLevel(logging.CRITICAL)
    client = Client.from_url(url)
    client.connection.connect_timeout = seconds
    client.connection.send_receive_timeout = seconds
    client.connection.sync_request_timeout = seconds
    try:
        answer = client.execute("SELECT 1")
    except (ClickHouseError, OSError, EOFError) as error:
        line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise NotHealthyError(f"ClickHouse at {without_password(url)}: {line}") from None
    finally:
        client.disconnect()
    if answer != [(1,)]:
        raise NotHealthyError(f"ClickHouse at {without_password(url)}: SELECT 1 gave {answer!r}")


def http_answers(url: str, seconds: float = PATIENCE) -> None:
    """Raises NotHealthyError unless the address answers 200."""
    try:
        with urllib.request.urlopen(url, timeout=seconds) as answer:  # noqa: S310 (our own http:// address)
            if answer.status != 200:
                raise NotHealthyError(f"{url}: HTTP {answer.status}")
    except urllib.error.HTTPError as error:
        body = error.read(300).decode("utf-8", "replace").strip()
        raise NotHealthyError(f"{url}: HTTP {error.code} {body}".rstrip()) from None
    except (OSError, ValueError) as error:
        raise NotHealthyError(f"{url}: {error}") from None


def clickhouse_away(settings: Settings) -> str:
    """In a line: ClickHouse does not answer, where, and what to do about it."""
    place = without_password(settings.clickhouse_url)
    advice = where_to_look("TRUYVET_CLICKHOUSE", settings.clickhouse)
    return f"ClickHouse does not answer at {place}: {advice}"


def without_password(url: str) -> str:
    """A URL as it may be shown: the password is left out."""
    scheme, mark, rest = url.partition("://")
    credentials, at, address = rest.rpartition("@")
    if not at:
        return url
    return f"{scheme}{mark}{credentials.partition(':')[0]}@{address}"
