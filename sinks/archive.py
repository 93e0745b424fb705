"""The archive role: everything that is kept, from Kafka into ClickHouse.

One flush, the numbered steps of which make at-least-once delivery enough:
1. records are read and turned into rows (sinks/rows.py) until there are 100,000 marks or half a second is
   over;
2. one synchronous insert per table, in a second thread: while it waits for ClickHouse, the rows of the next
   flush are read. ClickHouse away or slow: again with growing pauses, for as long as it takes, while the
   first thread polls Kafka with paused partitions so that the group keeps this member; nothing is skipped.
   A row that the server refuses for what is in it is found (sinks/blocks.py) and written to
   `archive.rejected`;
3. the offsets after those records are committed. A crash before this reads them again, and a row inserted
   twice merges away: marks by OR, the others by their key and version.
One flush is under way at a time, and its offsets alone are committed after it. A partition that is revoked
between 1 and 3 loses its place in the commit, not its rows: its new owner inserts them once more, which
changes nothing.
"""

from __future__ import annotations

import contextlib
import logging
import signal
import socket
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from dataclasses import dataclass
from typing import Any, Final

from clickhouse_driver import Client
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from schemas.kafka import headers_of
from schemas.serving import serve
from schemas.settings import Settings
from schemas.topics import ARCHIVE_REJECTED, Topic
from sinks import connection, metrics, migrate, retention, rows
from sinks.aside import Aside
from sinks.blocks import Inserter, Refusal
from sinks.offsets import Offsets
from sinks.patience import ArchiveError, EndedError, Patience, RefusedError

FLUSH_MARKS: Final = 100_000
FLUSH_BYTES: Final = 32 * 1024 * 1024  # rejected records may be large: bounds the memory of two flushes
FLUSH_SECONDS: Final = 0.5
_POLL_SECONDS: Final = 0.1  # how late a flush or the end may be noticed
_MOST_MESSAGES: Final = 200  # a poll: with 1,000 marks a record, twice a flush
# Between two polls while rows are looked for: well below any max.poll.interval.ms.
_LONGEST_SILENCE_S: Final = 3.0
# A server that hangs in the last insert must not hold the end: past it the connection is cut. With the close
# of the consumer it stays under the 10 seconds after which supervisors kill.
_LAST_FLUSH_SECONDS: Final = 6.0
# Both threads beat, the second before every insert; between two beats lies one up to its time-out.
_DEAD_AFTER_SECONDS: Final = connection.ANSWER_TIMEOUT_S * (len(rows.COLUMNS) + 1)
_WORDS_EVERY_SECONDS: Final = 30.0  # the same trouble is told once in this time

log = logging.getLogger("truyvet.archive")


def consumer_config(settings: Settings) -> dict[str, Any]:
    """The consumer's configuration, as librdkafka names it."""
    return {
        "bootstrap.servers": settings.kafka_address,
        "group.id": settings.group("archive"),
        "enable.auto.commit": False,
        "auto.offset.reset": "earliest",
        "isolation.level": "read_committed",  # what an aborted transaction wrote never happened
        "partition.assignment.strategy": "cooperative-sticky",
        # the end of a partition is told, so that the commit also passes the markers of transactions
        "enable.partition.eof": True,
        # a sink that hangs must not keep its partitions; longer than one slow insert into every table
        "max.poll.interval.ms": 900_000,
        "session.timeout.ms": 10_000,  # after a crash the partitions go on to others within it
        "topic.metadata.refresh.interval.ms": 10_000,  # a topic made after the sink started is seen soon
        "queued.max.messages.kbytes": 65_536,  # the backlog waits in Kafka, not in memory
        "fetch.max.bytes": 16 * 1024 * 1024,
        # rows wait for company anyway; a fetch for every chunk of visits costs CPU, the broker's too
        "fetch.min.bytes": 256 * 1024,
        "fetch.wait.max.ms": 200,
    }


@dataclass(frozen=True, slots=True)
class _Flush:
    """Rows on their way into ClickHouse; `started` monotonic."""

    batch: rows.Rows
    started: float
    done: Future[None]


class Archive:
    """One sink. `work` runs until `stop` is set; /healthz reads `trouble`.

    The thread of `work` has the consumer, the rows that gather and the offsets; a second one, during a flush,
    the client and the rows of that flush.
    """

    def __init__(
        self,
        settings: Settings,
        clock_ms: Callable[[], int],
        stop: threading.Event,
        counters: metrics.Metrics,
        client: Client,
    ) -> None:
        self._settings = settings
        self._clock_ms = clock_ms
        self._stop = stop
        self._metrics = counters
        self._client = client
        self._topics: dict[str, Topic] = {settings.topic(topic): topic for topic in rows.TOPICS}
        self._patience = Patience(stop, counters, self._tell)
        self._inserter = Inserter(client, self._patience, counters, self._pause, self._alive)
        self._aside = Aside(settings)
        self._consumer: Consumer | None = None
        self._rows = rows.Rows()
        self._since: float | None = None  # monotonic: when the oldest waiting row came
        self._offsets = Offsets(self._topics, counters, self._tell)
        self._strays: list[Message] = []
        self._held = False  # partitions are paused
        self._told: dict[str, float] = {}
        self._flush: _Flush | None = None
        self._inserting = ThreadPoolExecutor(1, "insert")
        self._beat = self._insert_beat = self._polled = time.monotonic()

    def trouble(self) -> str | None:
        """Why this process should be ended and started again; None while it is well.

        Waiting for ClickHouse is well: a restart would not bring it back.
        """
        beat = self._beat if self._flush is None else min(self._beat, self._insert_beat)
        silent = time.monotonic() - beat
        return f"no progress of the loop for {silent:.0f} s" if silent > _DEAD_AFTER_SECONDS else None

    def work(self) -> None:
        """Prepare the archive, then flush until `stop`; commit and leave the group at the end.

        Raises ArchiveError, EndedError, KafkaException.
        """
        try:
            self._patience.do("prepare the archive", self._prepare, self._rest)
        except RefusedError as error:
            advice = connection.advice(error.error)
            raise ArchiveError(f"could not prepare the archive: {error}: {advice}") from error
        if self._stop.is_set():
            return
        consumer = self._consumer = Consumer(consumer_config(self._settings), logger=log)
        try:
            consumer.subscribe(
                list(self._topics), on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._revoked
            )
            while not self._stop.is_set():
                self._read(consumer)
                if self._flush is not None and self._flush.done.done():
                    self._finish(consumer, self._flush)
                if self._flush is None and self._due():
                    self._begin()
            self._hand_over(consumer)
            self._settle(consumer)
        finally:
            self._stop.set()  # an insert that waits for ClickHouse ends as well
            self._inserting.shutdown()
            consumer.close()

    def _prepare(self) -> None:
        try:
            migrate.migrate(self._client, self._clock_ms)
        except migrate.MigrationError as error:
            raise ArchiveError(str(error)) from None
        retention.keep_for(self._client, self._settings.archive_retention_days)

    def _read(self, consumer: Consumer) -> None:
        self._beat = self._polled = time.monotonic()
        strays, self._strays = self._strays, []
        for message in strays or consumer.consume(_MOST_MESSAGES, _POLL_SECONDS):
            self._take(consumer, message)
            if self._rows.marks >= FLUSH_MARKS or self._rows.size >= FLUSH_BYTES:
                self._hand_over(consumer)

    def _take(self, consumer: Consumer, message: Message) -> None:
        name, partition, offset = message.topic(), message.partition(), message.offset()
        error = message.error()
        if error is not None and error.code() != KafkaError._PARTITION_EOF:
            self._tell_kafka(error, name)
            return
        if name is None or partition is None or offset is None:
            return
        after = offset if error is not None else offset + 1  # the end: behind markers of transactions
        if not self._offsets.passed(consumer, (name, partition), offset, after):
            return
        if error is None:
            kind, timestamp = message.timestamp()
            value = message.value()
            record = rows.Record(
                name,
                partition,
                offset,
                timestamp if kind else self._clock_ms(),
                value.encode() if isinstance(value, str) else value,
                headers_of(message),
            )
            self._rows.add(self._topics[name], record)
        if self._since is None:
            self._since = time.monotonic()

    def _due(self) -> bool:
        return self._since is not None and time.monotonic() - self._since >= FLUSH_SECONDS

    def _hand_over(self, consumer: Consumer) -> None:
        """Begin a flush of what waits, after the one under way. Raises what that one raised."""
        self._settle(consumer)
        self._begin()

    def _settle(self, consumer: Consumer) -> None:
        """Wait for the flush under way and finish it. Raises what it raised."""
        if self._flush is not None:
            self._await(consumer, self._flush)
            self._finish(consumer, self._flush)

    def _begin(self) -> None:
        """Step 2, in the second thread."""
        batch, self._rows, self._since = self._rows, rows.Rows(), None
        self._offsets.take_off()
        self._insert_beat = time.monotonic()
        done = self._inserting.submit(self._insert, batch)
        self._flush = _Flush(batch, self._insert_beat, done)

    def _insert(self, batch: rows.Rows) -> None:
        """Raises ArchiveError, EndedError when `stop` came while ClickHouse was away."""
        refused: list[tuple[str, Refusal]] = []
        for table, columns in batch.tables():
            refused += [(table, refusal) for refusal in self._inserter.insert(table, columns)]
        if refused:
            self._put_aside(batch, refused)

    def _await(self, consumer: Consumer, flush: _Flush) -> None:
        """Until it is done. When that takes long, with paused partitions: the group keeps this member."""
        while not flush.done.done():
            wait_for([flush.done], _POLL_SECONDS)
            self._beat = time.monotonic()
            if self._beat - self._polled > _LONGEST_SILENCE_S:
                self._poll_only(consumer)
        if self._held:
            self._held = False
            consumer.resume(consumer.assignment())

    def _finish(self, consumer: Consumer, flush: _Flush) -> None:
        """Step 3. Raises what the insert raised."""
        self._flush = None
        flush.done.result()
        batch = flush.batch
        if batch.broken:
            self._metrics.broken.inc(batch.broken)
            log.error(
                "%d records or elements could not be rows: they stand in the table rejected, malformed",
                batch.broken,
            )
        if self._offsets.commit(consumer):
            self._metrics.progress.set(self._clock_ms() / 1000)
        self._metrics.archived(batch.newest_received)
        self._metrics.flush_rows.observe(batch.marks)
        self._metrics.flush_seconds.observe(time.monotonic() - flush.started)
        self._offsets.measure_lag(consumer)

    def _put_aside(self, batch: rows.Rows, refused: Sequence[tuple[str, Refusal]]) -> None:
        """What ClickHouse refuses for its content, into archive.rejected."""
        letters = []
        for table, refusal in refused:
            source = batch.source(table, refusal.row)
            record = source.record
            words = connection.first_line(refusal.error)
            if source.topic is ARCHIVE_REJECTED:  # it would come back for ever
                log.critical(
                    "the table rejected does not take %s/%d/%d either, it stays in its topic only: %s",
                    *(record.topic, record.partition, record.offset, words),
                )
                continue
            letters.append((source, refusal.error))
            self._metrics.dead_lettered.labels(table).inc()
            self._tell("the table %s refuses rows, they go to archive.rejected: %s", table, words)
        self._aside.put(letters)

    def _alive(self) -> None:
        """Before each insert; a search for refused rows may need a hundred thousand."""
        self._insert_beat = time.monotonic()

    def _pause(self, seconds: float) -> None:
        """Between two tries of an insert."""
        self._insert_beat = time.monotonic()
        self._stop.wait(seconds)

    def _assigned(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._offsets.assigned(consumer, partitions)

    def _revoked(self, _: Consumer, partitions: list[TopicPartition]) -> None:
        """The rows stay here and merge away with those of the next owner."""
        self._offsets.revoked(partitions)

    def _rest(self, seconds: float) -> None:
        self._beat = time.monotonic()
        self._stop.wait(seconds)

    def _poll_only(self, consumer: Consumer) -> None:
        self._polled = time.monotonic()
        self._held = True
        consumer.pause(consumer.assignment())  # again each time: partitions may have come
        message = consumer.poll(0)
        if message is not None:
            self._strays.append(message)  # read between an assignment and its pause

    def _tell_kafka(self, error: KafkaError, topic: str | None) -> None:
        if error.fatal():
            raise KafkaException(error)
        if error.code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
            self._tell("topic %s is not there yet: truyvet topics apply makes it", topic)
        else:
            self._tell("Kafka: %s", error.str())

    def _tell(self, form: str, *words: object) -> None:
        line, now = form % words, time.monotonic()
        if now - self._told.get(line, -_WORDS_EVERY_SECONDS) >= _WORDS_EVERY_SECONDS:
            self._told = {text: at for text, at in self._told.items() if now - at < _WORDS_EVERY_SECONDS}
            self._told[line] = now
            log.warning(line)


def _cut_at_the_end(client: Client, stop: threading.Event, finished: threading.Event) -> None:
    stop.wait()
    while not finished.wait(_LAST_FLUSH_SECONDS):
        wire = client.connection.socket
        if wire is not None:
            with contextlib.suppress(OSError):  # closed meanwhile
                wire.shutdown(socket.SHUT_RDWR)


def run(settings: Settings, clock_ms: Callable[[], int], metrics_port: int, stop: threading.Event) -> None:
    """Run the archive role until SIGTERM, SIGINT or `stop`; answers /metrics and /healthz on `metrics_port`.

    Ends with exit code 1 and one line in the log when it cannot go on.
    """
    # a server that is away is told in one line by this module, not by a stack trace of the driver
    logging.getLogger("clickhouse_driver").setLevel(logging.ERROR)
    previous: dict[signal.Signals, Any] = {}
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGINT):
            previous[number] = signal.signal(number, lambda *_: stop.set())
    counters = metrics.Metrics(clock_ms)
    client = connection.connect(settings.clickhouse_url)
    archive = Archive(settings, clock_ms, stop, counters, client)
    finished = threading.Event()
    end_server: Callable[[], None] = lambda: None  # noqa: E731
    try:
        end_server = serve(counters.registry, metrics_port, archive.trouble)
        threading.Thread(target=_cut_at_the_end, args=(client, stop, finished), daemon=True).start()
        archive.work()
        log.info("ended, all that was read is in the archive")
    except EndedError as error:
        log.warning("%s; what is not committed is read again at the next start", error)
    except ArchiveError as error:
        log.critical("%s", error)
        raise SystemExit(1) from None
    except KafkaException as error:
        log.critical("Kafka refuses to go on: %s", error.args[0].str())
        raise SystemExit(1) from None
    except OSError as error:
        log.critical("cannot answer on port %d: %s: set TRUYVET_METRICS_PORT", metrics_port, error.strerror)
        raise SystemExit(1) from None
    finally:
        finished.set()
        stop.set()
        end_server()
        client.disconnect()
        for number, handler in previous.items():
            signal.signal(number, handler)
