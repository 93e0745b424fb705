"""What several commands ask of the topics, with errors that say what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from deploy.cli.output import CALL_WRONG, SERVER_AWAY, plain_errors
from producers.compacted import KafkaAwayError, TopicMissingError
from producers.venues.register import read_register
from schemas.events import Venue
from schemas.settings import Settings


@contextmanager
def kafka_errors() -> Iterator[None]:
    """A broker that is away and a topic that is not there each end a command with one line."""
    with plain_errors(KafkaAwayError, code=SERVER_AWAY), plain_errors(TopicMissingError, code=CALL_WRONG):
        yield


def venues_by_code(settings: Settings) -> dict[str, Venue]:
    """The register of venues as it stands in Kafka."""
    with kafka_errors():
        return read_register(settings)
