"""Who may ask what, for what, and how much of the answer they see: one layer before every question.

A question is looked up in QUESTIONS: which roles may ask it, whether it names or returns a person (then it
needs a purpose). How much of numbers a role sees, the view of the role says (lookups/figures.py). A question
stands in the audit before it is asked, and again with the number of rows before they are shown: if the audit
cannot be written, there is no answer.

This layer is what the command line goes through. Whoever has the password of ClickHouse, Redis or Kafka can
go past it: on real servers the grants of deploy/access bind those too (docs/PRIVACY.md).
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Mapping, Sequence, Sized
from dataclasses import dataclass
from typing import Final, Protocol, TypeVar

from clickhouse_driver import Client
from clickhouse_driver.errors import Error

from lookups.answers import PersonTrace, QuestionError
from lookups.audit import COLUMNS, COPY, AuditAwayError, Entry, copy_of
from schemas.audit import AuditRow, Step

TRACER: Final = "tracer"
DEPARTMENT: Final = "department"
ANALYST: Final = "analyst"
AUDITOR: Final = "auditor"

_PURPOSE: Final = re.compile(r"[^\W_][\w./-]{0,63}")

T = TypeVar("T")


class ForbiddenError(QuestionError):
    """The role may not ask this; the message says who may."""


class PurposeError(QuestionError):
    """A purpose is missing or no purpose; the message says how to give one."""


@dataclass(frozen=True, slots=True)
class Question:
    """Who may ask it; `persons`: it names or returns persons, so it needs a purpose.

    `own`: a department may ask it of its own venues only.
    """

    roles: frozenset[str]
    persons: bool = True
    own: bool = False


_TRACERS: Final = frozenset({TRACER})
_COUNTERS: Final = frozenset({TRACER, DEPARTMENT, ANALYST})

# What is not here is a tracer's, with a purpose: a new question is closed until somebody opens it.
QUESTIONS: Final[Mapping[str, Question]] = {
    "occupancy": Question(frozenset({TRACER, DEPARTMENT}), persons=False, own=True),
    "warnings": Question(frozenset({TRACER, DEPARTMENT}), persons=False),
    "visits-by": Question(_COUNTERS, persons=False),
    "exposures-by": Question(_COUNTERS, persons=False),
    "audit": Question(frozenset({AUDITOR}), persons=False),
    "audit-verify": Question(frozenset({AUDITOR, TRACER}), persons=False),
}
_CLOSED: Final = Question(_TRACERS)


@dataclass(frozen=True, slots=True)
class Asking:
    """Who asks: `who` as the machine says, the role, the department of that role, the purpose or nothing."""

    who: str
    role: str
    department: str = ""
    purpose: str = ""


# What the other roles may call on the command line; everything else is a tracer's. `help` needs no role.
COMMANDS: Final[Mapping[str, frozenset[str]]] = {
    DEPARTMENT: frozenset({"figures", "trace"}),
    ANALYST: frozenset({"figures"}),
    AUDITOR: frozenset({"audit"}),
}


def may_call(role: str, command: str) -> bool:
    """Whether the role may call a command or group at all; what of a group, its questions say."""
    return role == TRACER or command in COMMANDS.get(role, frozenset())


class Ledger(Protocol):
    """Where the audit is kept."""

    def append(self, entry: Entry) -> AuditRow:
        """Write it at the end of the chain; durable when this returns. Raises AuditAwayError."""


def checked_purpose(text: str) -> str:
    """The purpose without blanks around it. Raises PurposeError."""
    purpose = text.strip()
    if not _PURPOSE.fullmatch(purpose):
        raise PurposeError(
            f"{text!r} is no purpose: a case id or the number of an order, up to 64 letters, digits and ._/-"
        )
    return purpose


def permit(question: str, asking: Asking) -> Question:
    """The question, if this role may ask it with this purpose. Raises ForbiddenError, PurposeError."""
    asked = QUESTIONS.get(question, _CLOSED)
    if asking.role not in asked.roles:
        roles = sorted(asked.roles)
        raise ForbiddenError(
            f"the role {asking.role} may not ask this ({question}): the role {' or '.join(roles)} may: set"
            f" TRUYVET_ROLE={roles[0]}; on a ClickHouse server of your own the user needs its grant as well"
            " (truyvet access grant)"
        )
    if asking.purpose:
        checked_purpose(asking.purpose)
    elif asked.persons:
        raise PurposeError(
            "this names persons: say for what, with --purpose CASE or --purpose ORDER-NUMBER; it is written"
            " into the audit"
        )
    return asked


def rows_in(answer: object) -> int:
    """How many rows an answer has."""
    if isinstance(answer, PersonTrace):
        return len(answer.marks) + len(answer.presences)
    return len(answer) if isinstance(answer, Sized) else 1


class Desk:
    """What the questions of one asking pass through; not for several threads at once.

    `client`: of the archive, for the copy of the audit and to know whose venue is asked about.
    """

    def __init__(
        self, ledger: Ledger, asking: Asking, clock_ms: Callable[[], int], client: Client | None
    ) -> None:
        self._ledger = ledger
        self._asking = asking
        self._clock_ms = clock_ms
        self._client = client
        self._open: AuditRow | None = None

    def asked(self, question: str, arguments: Mapping[str, object]) -> None:
        """Write the question into the audit, if it may be asked.

        Raises ForbiddenError, PurposeError, AuditAwayError.
        """
        try:
            self._own(permit(question, self._asking), arguments)
        except ForbiddenError:
            self._write("refused", question, arguments)
            raise
        self._open = self._write("asked", question, arguments)

    def answered(self, answer: T) -> T:
        """The answer, after its number of rows stands in the audit. Raises AuditAwayError."""
        if self._open is not None:
            self._write("answered", self._open.question, {}, rows_in(answer), self._open.seq)
            self._open = None
        return answer

    def _own(self, question: Question, arguments: Mapping[str, object]) -> None:
        if self._asking.role != DEPARTMENT or not question.own or self._client is None:
            return
        venue = arguments.get("venue")
        try:
            rows: Sequence[tuple[str]] = self._client.execute(
                "SELECT department FROM venues FINAL WHERE code = %(venue)s", {"venue": venue}
            )
        except (Error, OSError, EOFError) as error:
            raise AuditAwayError(f"the archive does not say whose venue {venue} is: {error}") from None
        if rows != [(self._asking.department,)]:
            raise ForbiddenError(f"{venue} is no venue of {self._asking.department}: ask its own department")

    def _write(
        self,
        step: Step,
        question: str,
        arguments: Mapping[str, object],
        rows: int | None = None,
        of: int | None = None,
    ) -> AuditRow:
        asking = self._asking
        entry = Entry(
            entry=uuid.uuid4().hex,
            at=self._clock_ms(),
            who=asking.who,
            role=f"{asking.role}:{asking.department}" if asking.role == DEPARTMENT else asking.role,
            purpose=asking.purpose.strip(),
            step=step,
            question=question,
            arguments=arguments,
            rows=rows,
            of=of,
        )
        row = self._ledger.append(entry)
        if self._client is not None:
            try:
                self._client.execute(f"INSERT INTO {COPY} ({', '.join(COLUMNS)}) VALUES", [copy_of(row)])
            except (Error, OSError, EOFError) as error:
                words = str(error).splitlines()[0] if str(error) else repr(error)
                raise AuditAwayError(
                    f"the audit could not be copied into ClickHouse, so nothing is answered: {words};"
                    " is it up, and its migrations applied? (truyvet status, truyvet run archive)"
                ) from None
        return row
