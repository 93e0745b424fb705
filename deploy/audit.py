"""The lookup audit on Kafka: a topic of one partition, written by whoever owns the end of the chain.

Two writers that read the same last row would fork the chain. The serialiser is Kafka's own: every writer uses
one and the same transactional id. To begin (`init_transactions`) ends what an earlier owner had under way and
shuts it out; only then is the last committed row read, and the next one written in a transaction. Whoever
begins later shuts us out in turn, and our commit fails: so between our reading of the end and our commit
nobody else has written. A writer that was shut out begins again. There is no lock that could expire, and
nothing to clean up after a crash.

Rejected: the head under a lock in Redis (a lock that expired lets two in, and Redis may be lost); the row in
ClickHouse alone (no compare-and-set there); the chain computed by a reader of the topic (the one who asks
would not know the hash, and a second reader would be a second truth).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from clickhouse_driver import Client
from clickhouse_driver.errors import Error, NetworkError, SocketTimeoutError
from confluent_kafka import TopicPartition
from tenacity import RetryError, Retrying, retry_if_exception_type, stop_after_delay, wait_random_exponential

from deploy.local.health import clickhouse_away
from lookups.audit import COLUMNS, COPY, AuditAwayError, Entry, Verdict, next_row, read_row, verify
from producers.compacted import (
    KafkaAwayError,
    Record,
    TopicMissingError,
    check_somebody_listens,
    end_of,
    partitions_of,
    quiet_consumer,
    read_to_end,
)
from schemas import topics
from schemas.audit import AuditRow
from schemas.settings import Settings
from stream_processors.outputs import Out, PublishError, TransactionalProducer

# Kafka answers in milliseconds: past this it is away, and whoever asks wants to be told.
_BEGIN_SECONDS: Final = 10.0
# So long a crowd of askers may shut each other out: each row takes some 50 ms.
_PATIENCE_SECONDS: Final = 60.0
# Records (markers and aborted ones too) that are read back from the end to find the last row.
_TAIL: Final = 100


class KafkaLedger:
    """The writing end of the chain. One a process is enough; not for several threads at once."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._topic = settings.topic(topics.LOOKUP_AUDIT)
        self._producer: TransactionalProducer | None = None
        self._head: AuditRow | None = None

    def append(self, entry: Entry) -> AuditRow:
        """Write it at the end; durable when this returns.

        Raises AuditAwayError when Kafka is away, or the topic is missing or does not end in a row.
        """
        patience = Retrying(
            retry=retry_if_exception_type(PublishError),
            wait=wait_random_exponential(multiplier=0.05, max=1.0),
            stop=stop_after_delay(_PATIENCE_SECONDS),
        )
        try:
            return patience(self._append, entry)
        except RetryError as error:
            raise self._away(str(error.last_attempt.exception())) from None
        except (KafkaAwayError, TopicMissingError) as error:
            raise self._away(str(error)) from None

    def _append(self, entry: Entry) -> AuditRow:
        if self._producer is None:
            check_somebody_listens(self._settings)
            producer = TransactionalProducer(
                self._settings.kafka_address, f"{self._topic}-writer", quiet=True
            )
            try:
                producer.begin_ownership(_BEGIN_SECONDS)
            except PublishError:
                self._ask_topic()  # Kafka away, or without the topic, is told as that
                raise
            tail = self._tail()
            # an answer to our last commit that never came: it may have been taken
            if written := next((row for row in tail if row.entry == entry.entry), None):
                return written
            self._producer, self._head = producer, tail[-1] if tail else None
        row = next_row(self._head, entry)
        try:
            self._producer.send([Out(self._topic, row.model_dump_json().encode())])
        except PublishError:
            self._producer = None  # somebody else owns the end now, or nobody knows
            raise
        self._head = row
        return row

    def _ask_topic(self) -> None:
        """Raises KafkaAwayError, TopicMissingError."""
        consumer = quiet_consumer(self._settings)
        try:
            partitions_of(consumer, self._settings, topics.LOOKUP_AUDIT)
        finally:
            consumer.close()

    def _tail(self) -> list[AuditRow]:
        """The last rows, in order; all that is committed by now."""
        consumer = quiet_consumer(self._settings)
        try:
            if partitions_of(consumer, self._settings, topics.LOOKUP_AUDIT) != [0]:
                raise self._away(f"{self._topic} must have one partition: its order is that of the chain")
            end = end_of(consumer, self._settings, TopicPartition(self._topic, 0))
        finally:
            consumer.close()
        back = _TAIL
        while True:
            begin = max(0, end - back)
            records = list(read_to_end(self._settings, topics.LOOKUP_AUDIT, begin={0: begin}))
            if records:
                return [self._row(record) for record in records[-_TAIL:]]
            if begin == 0:
                return []
            back *= 10

    def _row(self, record: Record) -> AuditRow:
        try:
            return read_row(record.value)[0]
        except ValueError as error:
            raise self._away(
                f"{self._topic} at offset {record.offset} is no row of an audit ({error}): somebody wrote"
                " into it; truyvet audit verify shows more"
            ) from None

    def _away(self, why: str) -> AuditAwayError:
        return AuditAwayError(f"the audit cannot be written, so nothing is answered: {why}")


def audit_records(settings: Settings) -> Iterator[tuple[int, bytes | None]]:
    """(offset, value) of every row of the chain in its order. Raises KafkaAwayError, TopicMissingError."""
    for record in read_to_end(settings, topics.LOOKUP_AUDIT):
        yield record.offset, record.value


def copied_rows(settings: Settings, client: Client) -> Mapping[int, Sequence[tuple[Any, ...]]]:
    """The rows of the copy in ClickHouse, by seq. Raises AuditAwayError."""
    found: dict[int, list[tuple[Any, ...]]] = {}
    try:
        # a row of seq 0 is of a program that asked without the chain
        for row in client.execute(f"SELECT {', '.join(COLUMNS)} FROM {COPY} WHERE seq > 0"):  # noqa: S608 constants
            found.setdefault(row[COLUMNS.index("seq")], []).append(row)
    except (NetworkError, SocketTimeoutError, OSError, EOFError):
        raise AuditAwayError(f"the copy of the audit cannot be read: {clickhouse_away(settings)}") from None
    except Error as error:
        words = str(error).splitlines()[0] if str(error) else repr(error)
        raise AuditAwayError(f"the table {COPY} cannot be read: {words}") from None
    return found


def verify_audit(settings: Settings, client: Client, anchors: Sequence[tuple[int, str]]) -> Verdict:
    """Judge the chain on Kafka against its copy and the anchors. Raises AuditAwayError and KafkaAwayError."""
    check_somebody_listens(settings)
    return verify(audit_records(settings), copied_rows(settings, client), anchors)
