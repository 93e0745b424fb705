"""Cases as the authority keeps them: read what stands, make the next version, publish it.

The topic `cases` is the register itself: compacted, key case_id, and a higher version replaces a lower one.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from confluent_kafka import KafkaError, Message
from pydantic import ValidationError

from producers.compacted import Record, away, read_to_end
from schemas import topics
from schemas.codes import ALPHABET
from schemas.events import Case
from schemas.json_text import constant_problem
from schemas.kafka import durable_producer
from schemas.problems import first_problem
from schemas.settings import Settings

# Long enough for a broker's restart; past it a person wants to be told rather than to wait.
ACKNOWLEDGED_SECONDS: Final = 30.0
_NEVER_REVISED: Final = ("case_id", "person", "venue")


class CaseError(ValueError):
    """A case cannot be published as asked; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class CaseBook:
    """What stands: each case at its highest version, and what lies in the topic but does not count."""

    cases: dict[str, Case] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def get(self, case_id: str) -> Case:
        """The case. Raises CaseError for an id that is not there."""
        case = self.cases.get(case_id)
        if case is None:
            raise CaseError(f"there is no case {case_id}: see `truyvet cases list`")
        return case


def standing(records: Iterable[Record]) -> CaseBook:
    """Judge records in their order, as the cases processor does: of an equal version the first counts, and
    another person or venue is refused."""
    book = CaseBook()
    for record in records:
        place = f"partition {record.partition}, offset {record.offset}"
        if record.value is None:
            book.problems.append(f"{place}: a tombstone; a case is withdrawn, not deleted")
            continue
        problem = constant_problem(record.value)
        if problem is not None:
            book.problems.append(f"{place}: {problem}")
            continue
        try:
            case = Case.model_validate_json(record.value)
        except ValidationError as error:
            book.problems.append(f"{place}: {first_problem(error)}")
            continue
        if record.key != case.case_id.encode():
            book.problems.append(f"{place}: the record's key is not the case_id {case.case_id}")
            continue
        before = book.cases.get(case.case_id)
        if before is None:
            book.cases[case.case_id] = case
        elif before.subject != case.subject:
            book.problems.append(f"{place}: {case.case_id} is about {before.subject}, not {case.subject}")
        elif case.version > before.version:
            book.cases[case.case_id] = case
        elif case.version == before.version and case.to_json() != before.to_json():
            book.problems.append(f"{place}: {case.case_id} version {case.version} was another case before")
    return book


def read_cases(settings: Settings) -> CaseBook:
    """What stands in the topic now. Raises KafkaAwayError, TopicMissingError."""
    return standing(read_to_end(settings, topics.CASES))


def new_case_id(local_date: str, taken: Container[str], choose: Callable[[str], str] = secrets.choice) -> str:
    """An id that nobody has: the date (YYYY-MM-DD) and five letters without look-alikes."""
    while True:
        case_id = f"{local_date}-{''.join(choose(ALPHABET) for _ in range(5))}"
        if case_id not in taken:
            return case_id


def make_case(**fields: Any) -> Case:
    """A case of these fields (by the names in JSON; none means absent). Raises CaseError."""
    given = {name: value for name, value in fields.items() if value is not None}
    try:
        return Case.model_validate(given)
    except ValidationError as error:
        raise CaseError(first_problem(error)) from None


def revised(case: Case, changes: dict[str, Any]) -> Case:
    """The next version of a case with some fields changed; never its id, person or venue.

    Raises CaseError for a change that makes no valid case, or none at all.
    """
    if wrong := [name for name in _NEVER_REVISED if name in changes]:
        raise CaseError(f"{', '.join(wrong)} cannot change: withdraw {case.case_id} and make a new case")
    before = case.model_dump(by_alias=True, exclude_none=True)
    after = before | changes
    if after == before:
        raise CaseError(f"{case.case_id} version {case.version} says exactly that already")
    return make_case(**(after | {"version": case.version + 1}))


def publish_case(settings: Settings, case: Case) -> None:
    """Publish a version and return once it is durable and stands.

    Raises KafkaAwayError when no acknowledgement came (the version may or may not be there), CaseError when
    somebody else published the same or a higher version in the meantime.
    """
    _send(settings, case)
    now = read_cases(settings).cases.get(case.case_id)
    if now is None or now.to_json() != case.to_json():
        there = f"version {now.version} ({now.status})" if now else "no version"
        raise CaseError(
            f"{case.case_id}: {there} stands, not yours: somebody else was quicker. "
            "Look at `truyvet cases list`, and ask again if your change is still wanted"
        )


def _send(settings: Settings, case: Case) -> None:
    problems: list[KafkaError] = []

    def delivered(error: KafkaError | None, _: Message) -> None:
        if error is not None:
            problems.append(error)

    topic = settings.topic(topics.CASES)
    producer = durable_producer(
        settings.kafka_address, [topic], ACKNOWLEDGED_SECONDS, {"linger.ms": 0, "log_level": 0}
    )
    producer.produce(topic, case.to_json(), case.case_id.encode(), on_delivery=delivered)
    left = producer.flush(ACKNOWLEDGED_SECONDS + 5)
    if problems or left:
        why = problems[0].str() if problems else "no acknowledgement"
        raise away(settings, f"{case.case_id} version {case.version} was not acknowledged, {why}")
