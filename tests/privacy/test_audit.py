"""The audit on the real topic: no answer without it, one chain whoever writes, tampering found."""

from __future__ import annotations

import json
import multiprocessing
import uuid
from concurrent.futures import ProcessPoolExecutor

import pytest
from clickhouse_driver import Client
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from typer.testing import CliRunner, Result

from deploy.audit import KafkaLedger, audit_records, verify_audit
from deploy.cli import audit, figures, trace
from lookups.audit import Entry, read_row
from schemas import topics
from schemas.audit import AuditRow
from schemas.settings import Settings
from tests.privacy.conftest import clock_ms

pytestmark = pytest.mark.engines

PERSON = "00000000000000aa"
WRITERS, EACH = 3, 4


def asked(*words: str, role: str = "tracer") -> Result:
    return CliRunner().invoke(trace.commands, words, env={"TRUYVET_ROLE": role})


def looked(*words: str, role: str = "auditor") -> Result:
    return CliRunner().invoke(audit.commands, words, env={"TRUYVET_ROLE": role})


def rows(settings: Settings) -> list[AuditRow]:
    return [read_row(value)[0] for _, value in audit_records(settings)]


def entry(who: str) -> Entry:
    return Entry(uuid.uuid4().hex, clock_ms(), who, "tracer", "k-1", "asked", "person", {"person": PERSON})


def test_a_lookup_stands_in_the_audit_before_and_after(archive: Client, settings: Settings) -> None:
    result = asked("person", PERSON, "--purpose", "123/QĐ-UBND", "--json")
    assert result.exit_code == 0, result.output
    question, answer = rows(settings)
    assert (question.step, question.question, question.purpose) == ("asked", "person", "123/QĐ-UBND")
    assert question.arguments["person"] == PERSON
    assert (answer.step, answer.of, answer.rows) == ("answered", 1, 0)
    copied = archive.execute("SELECT seq, hash, purpose FROM lookup_audit ORDER BY seq")
    assert copied == [(row.seq, row.hash, "123/QĐ-UBND") for row in (question, answer)]
    listed = json.loads(looked("list", "--json").stdout)
    assert [row["seq"] for row in listed] == [1, 2, 3]  # the look itself is the third


def test_the_list_shows_times_that_people_read(archive: Client, settings: Settings) -> None:
    window = ("--from", "2026-11-01", "--to", "2026-11-02T08:30", "--purpose", "k-1")
    assert asked("person", PERSON, *window).exit_code == 0
    place = "CDEFHK5,2026-11-01T08:00,2026-11-01T09:00"
    assert asked("places", place, "--purpose", "k-1").exit_code == 1  # no such venue: asked all the same
    counted = CliRunner().invoke(figures.commands, ["visits", "--from", "2026-11-01", "--to", "2026-11-03"])
    assert counted.exit_code == 0, counted.output
    for words in ((), ("--csv",)):
        told = " ".join(looked("list", *words).stdout.split())
        assert "from=2026-11-01T00:00+07:00 to=2026-11-02T08:30+07:00" in told
        assert "first=2026-11-01 last=2026-11-03" in told
        assert "places=CDEFHK5,2026-11-01T08:00+07:00,2026-11-01T09:00+07:00" in told
    first = json.loads(looked("list", "--json").stdout)[0]
    assert first["arguments"]["from"] == 1_793_466_000_000  # machines get what was written


def test_a_list_that_nothing_fits_says_so(archive: Client, settings: Settings) -> None:
    result = looked("list", "--purpose", "no such case")
    assert result.exit_code == 0
    assert "no row of the audit is of this purpose" in result.stderr


def test_who_may_not_list_is_told_how(archive: Client, settings: Settings) -> None:
    result = looked("list", role="tracer")
    assert result.exit_code == 2
    told = " ".join(result.output.split())
    assert "the role auditor may" in told
    assert "TRUYVET_ROLE=auditor" in told and "truyvet access grant" in told
    assert looked("verify", role="tracer").exit_code == 0


def test_without_a_purpose_nothing_is_asked(archive: Client, settings: Settings) -> None:
    for words in ((), ("--purpose", ""), ("--purpose", "because!")):
        for question in (("person", PERSON), ("contacts", PERSON), ("venue", "CDEFHK7")):
            result = asked(*question, *words)
            assert result.exit_code == 2, result.output
    assert rows(settings) == []


def test_no_answer_when_the_audit_cannot_be_written(
    archive: Client, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def told() -> str:
        result = asked("person", PERSON, "--purpose", "k-1", "--json")
        assert result.exit_code == 3, result.output
        assert result.stdout == ""
        return " ".join(result.output.split())

    monkeypatch.setattr("deploy.audit._BEGIN_SECONDS", 1.0)
    monkeypatch.setattr("producers.compacted.METADATA_SECONDS", 1.0)
    with monkeypatch.context() as without_a_topic:
        without_a_topic.setenv("TRUYVET_TOPIC_PREFIX", settings.topic_prefix + "x")
        assert "topics apply" in told()
    with monkeypatch.context() as without_kafka:
        without_kafka.setenv("TRUYVET_KAFKA", "127.0.0.1:1")
        assert "nothing is answered" in told()
    archive.execute("DROP TABLE lookup_audit")  # without the copy
    assert "nothing is answered" in told()


def _write(settings: Settings, who: str) -> None:
    for number in range(EACH):
        # half of them begin anew each time, as commands do; half keep the end as long as they can
        if number == 0 or int(who) % 2:
            ledger = KafkaLedger(settings)
        ledger.append(entry(who))


def test_writers_at_the_same_time_make_one_chain(archive: Client, settings: Settings) -> None:
    with ProcessPoolExecutor(WRITERS, mp_context=multiprocessing.get_context("spawn")) as pool:
        list(pool.map(_write, [settings] * WRITERS, [str(each) for each in range(WRITERS)]))
    found = verify_audit(settings, archive, [])
    assert [problem.what for problem in found.problems] == []
    assert found.rows == WRITERS * EACH
    assert len({row.entry for row in rows(settings)}) == WRITERS * EACH


def test_one_that_was_shut_out_writes_behind_the_other(archive: Client, settings: Settings) -> None:
    first, second = KafkaLedger(settings), KafkaLedger(settings)
    seqs = [ledger.append(entry("x")).seq for ledger in (first, second, first, first, second)]
    assert seqs == [1, 2, 3, 4, 5]
    assert verify_audit(settings, archive, []).problems == []


def test_tampering_with_the_topic_is_found(archive: Client, settings: Settings) -> None:
    for _ in range(2):
        assert asked("person", PERSON, "--purpose", "k-1").exit_code == 0
    whole = looked("verify", "--json")
    assert whole.exit_code == 0, whole.output
    anchor = json.loads(whole.stdout)["head"]
    assert anchor.startswith("4:")
    # somebody takes the first row away, as an administrator of Kafka can
    admin = AdminClient({"bootstrap.servers": settings.kafka_address})
    name = settings.topic(topics.LOOKUP_AUDIT)
    second = [offset for offset, _ in audit_records(settings)][1]
    admin.delete_records([TopicPartition(name, 0, second)])[TopicPartition(name, 0)].result(10)
    result = looked("verify", "--anchor", anchor)
    assert result.exit_code == 1
    assert "row 1 is not where they belong" in " ".join(result.output.split())
    assert "anchor" not in result.stdout, "nobody is to keep one of a broken chain"
    assert json.loads(looked("verify", "--json").stdout)["head"] is None
    # and puts a row of his own at the end
    producer = Producer({"bootstrap.servers": settings.kafka_address})
    forged = rows(settings)[-1].model_copy(update={"seq": 99, "who": "nobody@nowhere"})
    producer.produce(name, forged.model_dump_json().encode())
    assert producer.flush(10) == 0
    assert "row 99 was changed" in " ".join(looked("verify").output.split())


def test_a_wrong_anchor_is_answered_with_none(archive: Client, settings: Settings) -> None:
    assert asked("person", PERSON, "--purpose", "k-1").exit_code == 0
    wrong = looked("verify", "--anchor", f"2:{'a' * 64}")
    assert wrong.exit_code == 1
    assert "row 2 is not the one of the anchor" in " ".join(wrong.output.split())
    assert "anchor" not in wrong.stdout
    assert "anchor 2:" in looked("verify").stdout


def test_a_changed_copy_is_found(archive: Client, settings: Settings) -> None:
    assert asked("person", PERSON, "--purpose", "k-1").exit_code == 0
    archive.execute("ALTER TABLE lookup_audit UPDATE asker = 'x@y' WHERE seq = 2 SETTINGS mutations_sync = 2")
    result = looked("verify")
    assert result.exit_code == 1
    assert "row 2 is another one in the table" in " ".join(result.output.split())
