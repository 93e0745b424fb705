"""The register on the compacted topic `venues`: read it whole, write to it."""

from __future__ import annotations

from collections.abc import Iterable

from confluent_kafka import Producer
from pydantic import ValidationError

from producers.compacted import away, check_somebody_listens, read_to_end
from schemas import topics
from schemas.events import Venue
from schemas.kafka import durable_producer
from schemas.settings import Settings

# Whoever waits at a terminal for the register should hear after this that Kafka is away.
PATIENCE_S = 20.0


def read_register(settings: Settings) -> dict[str, Venue]:
    """Every registered venue by code, as the processors see it.

    They keep the first dwell of a code and ignore what is no venue; both are said in their logs.
    Raises KafkaAwayError, TopicMissingError.
    """
    venues: dict[str, Venue] = {}
    for record in read_to_end(settings, topics.VENUES):
        try:
            venue = Venue.model_validate_json(record.value or b"")
        except ValidationError:
            continue
        known = venues.get(venue.code)
        if known is None or known.dwell == venue.dwell:
            venues[venue.code] = venue
    return venues


def _produced(producer: Producer, settings: Settings, venue: Venue, failed: list[str]) -> bool:
    try:
        producer.produce(
            settings.topic(topics.VENUES),
            venue.model_dump_json().encode(),
            venue.code.encode(),
            on_delivery=lambda error, _: failed.append(error.str()) if error else None,
        )
    except BufferError:
        return False
    return True


def publish_venues(settings: Settings, venues: Iterable[Venue]) -> int:
    """Write venues; the number written. Raises KafkaAwayError unless all were acknowledged."""
    check_somebody_listens(settings)
    failed: list[str] = []
    producer = durable_producer(
        settings.kafka_address, [settings.topic(topics.VENUES)], PATIENCE_S, {"log_level": 0}
    )
    count = 0
    for venue in venues:
        # the client holds 100,000 records: a country's register has more
        while not _produced(producer, settings, venue, failed):
            producer.poll(0.1)
        producer.poll(0)
        count += 1
    left = producer.flush(PATIENCE_S + 5)
    if failed or left:
        why = failed[0] if failed else "no answer"
        raise away(settings, f"{len(failed) + left} of {count} venues not acknowledged, {why}")
    return count
