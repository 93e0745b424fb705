"""What several commands ask of the topics, with errors that say what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pydantic import ValidationError

from deploy.cli.output import CALL_WRONG, SERVER_AWAY, err, plain_errors
from producers.compacted import KafkaAwayError, TopicMissingError, read_to_end
from schemas import topics
from schemas.events import Venue
from schemas.problems import first_problem
from schemas.settings import Settings


@contextmanager
def kafka_errors() -> Iterator[None]:
    """A broker that is away and a topic that is not there each end a command with one line."""
    with plain_errors(KafkaAwayError, code=SERVER_AWAY), plain_errors(TopicMissingError, code=CALL_WRONG):
        yield


def venues_by_code(settings: Settings) -> dict[str, Venue]:
    """The register of venues as it stands in Kafka; records that are no venue are told."""
    register: dict[str, Venue] = {}
    with kafka_errors():
        for record in read_to_end(settings, topics.VENUES):
            key = (record.key or b"").decode("utf-8", "replace")
            if record.value is None:
                register.pop(key, None)
                continue
            try:
                register[key] = Venue.model_validate_json(record.value)
            except ValidationError as error:
                place = f"{settings.topic_prefix}venues, partition {record.partition}, offset {record.offset}"
                err.print(f"{place}: {first_problem(error)}", style="yellow", markup=False, soft_wrap=True)
    return register
