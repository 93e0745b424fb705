"""up → status → a role is killed → started again and said → down; and each way in which it can go wrong."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
import redis
from confluent_kafka import Consumer, Producer, TopicPartition
from typer.testing import CliRunner

from deploy.cli import stack as cli
from deploy.local import engines as local
from deploy.local import memory
from deploy.local.stack import AlreadyUpError, Stack, StackError
from deploy.local.status import Row, Status, status
from deploy.local.supervision import Folder, SupervisorError, configuration
from schemas import topics
from tests.stack.conftest import MakeStack

pytestmark = pytest.mark.engines


def look(stack: Stack) -> Status:
    known = memory.read(stack.folder)
    return status(stack, known["started_at"] if known else 0, sample=0.1)


def row(stack: Stack, name: str) -> Row:
    (found,) = [row for row in look(stack).processes if row.name == name]
    return found


def eventually(condition: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not become true in time"
        time.sleep(0.2)


def test_up_status_kill_down(make_stack: MakeStack) -> None:
    stack = make_stack(ingest_workers=2)
    assert stack.up() is True
    assert stack.up() is False, "a second up finds everything up"

    seen = look(stack)
    assert seen.healthy and seen.up
    names = {row.name for row in seen.processes}
    assert names == {
        *("kafka", "redis", "clickhouse", "archive", "matcher", "cases"),
        *("ingest-0", "ingest-1", "gateway", "watchdog"),
    }
    assert {row.name for row in seen.processes if row.external} == {"kafka", "clickhouse"}
    own = [row for row in seen.processes if not row.external]
    assert all(row.pid and row.memory_bytes and row.restarts == 0 for row in own)
    assert seen.marks_per_second == 0.0
    assert seen.notes == []
    assert {lag.role for lag in seen.lag} == {"ingest", "cases", "matcher", "archive"}

    victim = row(stack, "matcher").pid
    assert victim
    os.kill(victim, signal.SIGKILL)
    eventually(lambda: row(stack, "matcher").pid not in {None, victim})
    # a new process is "starting" until supervisord has seen it stay up for a moment
    eventually(lambda: row(stack, "matcher").state == "healthy")
    again = row(stack, "matcher")
    assert again.restarts == 1
    assert again.last_death and again.last_death["reason"] == "killed by SIGKILL"
    assert "matcher died (killed by SIGKILL): started again" in stack.folder.log("matcher").read_text()
    assert row(stack, "cases").restarts == 0

    assert stack.down() is True
    assert stack.down() is False
    assert not look(stack).up
    assert all(local.port_holder(port) is None for port in (stack.settings.redis_port,))
    # the roles were asked to end and did, before the engine under them was
    assert "tiny role ended" in stack.folder.log("ingest-1").read_text()
    said = stack.folder.supervisor_log.read_text()
    assert said.index("stopped: gateway") < said.index("stopped: ingest-0") < said.index("stopped: redis")


def test_state_survives_down_and_up_also_on_other_ports(make_stack: MakeStack) -> None:
    stack = make_stack("dữ liệu", kafka="")
    stack.up(roles=["gateway"])
    redis.Redis.from_url(stack.settings.redis_url).set("kept", "1")
    topic = stack.settings.topic(topics.VISITS)
    producer = Producer({"bootstrap.servers": stack.settings.kafka_address, "acks": "all"})
    producer.produce(topic, b"kept", partition=0)
    assert producer.flush(10) == 0
    stack.down()

    again = make_stack("dữ liệu", kafka="", topic_prefix=stack.settings.topic_prefix)
    assert again.settings.kafka_port != stack.settings.kafka_port
    again.up(roles=["gateway"])
    assert redis.Redis.from_url(again.settings.redis_url).get("kept") == b"1"
    consumer = Consumer({"bootstrap.servers": again.settings.kafka_address, "group.id": "t"})
    consumer.assign([TopicPartition(topic, 0, 0)])
    message = consumer.poll(15)
    consumer.close()
    assert message is not None and message.value() == b"kept"


def test_a_role_that_cannot_start_is_named_with_its_last_lines(make_stack: MakeStack, tmp_path: Path) -> None:
    (tmp_path / "broken-cases").touch()
    stack = make_stack()
    with pytest.raises(
        StackError, match=r"cases did not come up: it keeps dying \(exit status 7\)"
    ) as refusal:
        stack.up(roles=["cases", "gateway"])
    assert "the register of venues is on fire" in str(refusal.value)
    failing = row(stack, "cases")
    assert failing.state == "failing"
    assert failing.restarts >= 3
    assert "the register of venues is on fire" in failing.log_tail
    assert not look(stack).healthy
    # and when the cause is gone, it comes up
    (tmp_path / "broken-cases").unlink()
    assert stack.up(roles=["cases", "gateway"]) is True


def test_a_taken_port_names_the_setting(make_stack: MakeStack) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(
            local.EngineError, match=rf"port {port} \(redis\) .*{os.getpid()}.*TRUYVET_REDIS_PORT"
        ):
            make_stack("a", redis_port=port).up()
        with pytest.raises(local.EngineError, match=rf"port {port} \(gateway\) .*TRUYVET_GATEWAY_PORT"):
            make_stack("b", gateway_port=port).up()


def test_an_external_server_that_is_away_is_named(
    make_stack: MakeStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deploy.local.stack.EXTERNAL_SECONDS", 0.5)
    (port,) = local.free_ports(1)
    stack = make_stack(redis=f"redis://:secret@127.0.0.1:{port}/0")
    with pytest.raises(
        StackError, match=f"Redis at redis://@127.0.0.1:{port}/0(.|\n)*TRUYVET_REDIS"
    ) as refusal:
        stack.up()
    assert "secret" not in str(refusal.value)
    assert stack.down() is False, "nothing had been started"


def test_other_settings_while_it_is_up_are_refused(make_stack: MakeStack) -> None:
    stack = make_stack()
    stack.up(roles=["gateway"])
    other = Stack(stack.settings.model_copy(update={"retention_days": 12}))
    with pytest.raises(AlreadyUpError, match=r"TRUYVET_RETENTION_DAYS \(default\) → 12"):
        other.up(roles=["gateway"])
    keys = Stack(stack.settings.model_copy(update={"gateway_keys": {"door": "s3cret"}}))
    with pytest.raises(AlreadyUpError, match="other keys"):
        keys.up(roles=["gateway"])


def test_what_a_killed_supervisor_leaves_is_found_and_ended(make_stack: MakeStack) -> None:
    stack = make_stack()
    stack.up(roles=["gateway", "archive"])
    os.kill(stack.supervisor.pid(), signal.SIGKILL)
    eventually(lambda: not stack.supervisor.up())
    seen = look(stack)
    assert not seen.healthy
    assert any("left processes" in note for note in seen.notes)
    assert stack.down() is True
    assert stack.leftovers() == []
    assert local.port_holder(stack.settings.redis_port) is None
    assert stack.up(roles=["gateway", "archive"]) is True


def test_the_folder_is_enough_for_status_logs_and_down(
    make_stack: MakeStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    stack = make_stack(gateway_keys={"door": "s3cret"})
    stack.up(roles=["gateway", "ingest"])
    monkeypatch.setenv("TRUYVET_REDIS_PORT", "1")  # of another installation: must not matter
    data = ["--data", str(stack.settings.data)]
    run = CliRunner().invoke

    shown = run(cli.commands, ["status", "--json", *data])
    assert shown.exit_code == 0, shown.output
    document = orjson.loads(shown.stdout)
    assert document["healthy"] is True
    assert {each["name"] for each in document["processes"]} >= {"redis", "gateway", "ingest-0"}
    table = run(cli.commands, ["status", *data])
    assert table.exit_code == 0 and "healthy" in table.stdout, table.stdout

    store = redis.Redis.from_url(stack.settings.redis_url)
    used = document["store"]["used"]
    assert document["store"]["whole"] is True and used > 0
    store.config_set("maxmemory", used * 10)
    # as the matcher leaves it while it rebuilds
    rebuild: dict[Any, Any] = {"epoch": 2, "status": "lost", "reason": "emptied"}
    rebuild |= {"step": "marks", "done": 3, "total": 9}
    store.hset("s:{0}", mapping=rebuild)
    old = round((time.time() - 7 * 86_400 + 7_200) * 1000)
    producer = Producer({"bootstrap.servers": stack.settings.kafka_address, "acks": "all"})
    producer.produce(stack.settings.topic(topics.VISITS), b"x", partition=0, timestamp=old)
    assert producer.flush(10) == 0
    degraded = run(cli.commands, ["status", "--json", *data])
    assert degraded.exit_code == 1
    document = orjson.loads(degraded.stdout)
    assert document["healthy"] is False
    redis_is = document["store"]
    assert (redis_is["whole"], redis_is["most"], redis_is["full"]) == (False, used * 10, False)
    assert (redis_is["step"], redis_is["done"], redis_is["total"]) == ("marks", 3, 9)
    visits = [each for each in document["lag"] if each["topic"] == stack.settings.topic(topics.VISITS)]
    assert [(each["hours_to_age_out"], each["retention"]) for each in visits] == [(2.0, "late")]
    table = run(cli.commands, ["status", *data], env={"COLUMNS": "200"})
    assert table.exit_code == 1
    for words in (
        "2 h, late",
        "matching is degraded (emptied)",
        "marks 3/9",
        "in 2.0 h: let the role catch up",
    ):
        assert words in table.stdout, table.stdout
    store.hset("s:{0}", "status", "ready")
    store.config_set("maxmemory", 1)
    full = run(cli.commands, ["status", "--json", *data])
    assert full.exit_code == 1 and orjson.loads(full.stdout)["store"]["full"] is True
    store.config_set("maxmemory", 0)

    log = run(cli.commands, ["logs", "ingest", "-n", "5", *data])
    assert log.exit_code == 0 and "tiny role on" in log.stdout
    unknown = run(cli.commands, ["logs", "nonsense", *data])
    assert unknown.exit_code == 2 and "ingest-0" in unknown.output
    kept = (stack.folder.run / "stack.json").read_text()
    assert "s3cret" not in kept + (stack.folder.run / "supervisord.conf").read_text()

    assert run(cli.commands, ["down", *data]).exit_code == 0
    ended = run(cli.commands, ["status", "--json", *data])
    assert ended.exit_code == 1
    assert orjson.loads(ended.stdout)["up"] is False


def test_a_wrong_setting_is_found_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRUYVET_PARTITIONS", '{"scnas": 8}')
    data = tmp_path / "data"
    try:
        refused = CliRunner().invoke(cli.commands, ["up", "--data", str(data)])
        assert (refused.exit_code, refused.stdout) == (2, "")
        assert "TRUYVET_PARTITIONS: 'scnas' is no topic" in refused.stderr
        assert not data.exists()
    finally:  # what should not have started
        monkeypatch.delenv("TRUYVET_PARTITIONS")
        if data.exists():
            CliRunner().invoke(cli.commands, ["down", "--data", str(data)])


def test_a_stack_comes_down_although_a_setting_of_its_is_refused_by_now(make_stack: MakeStack) -> None:
    stack = make_stack()
    stack.up(roles=["gateway"])
    memory.write(stack.folder, {"TRUYVET_PARTITIONS": '{"scnas": 8}'}, ["gateway"])
    ended = CliRunner().invoke(cli.commands, ["down", "--data", str(stack.settings.data)])
    assert ended.exit_code == 0, ended.output
    assert "'scnas'" in ended.stderr and "run `truyvet down`, then `up`" in ended.stderr
    assert not stack.supervisor.up()


def test_in_another_folder_the_stack_on_the_ports_is_named(
    make_stack: MakeStack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stack = make_stack()
    stack.up(roles=["gateway", "ingest"])
    for name, value in memory.environment_of(stack.settings).items():
        monkeypatch.setenv(name, value)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    monkeypatch.delenv("TRUYVET_DATA")
    run = CliRunner().invoke

    shown = run(cli.commands, ["status"])
    assert shown.exit_code == 1
    assert f"nothing is up in {elsewhere / 'data'}: the stack of {stack.folder.data} is" in shown.stdout
    assert str(stack.settings.redis_port) in shown.stdout
    assert "marks/s" not in shown.stdout and "truyvet up" not in shown.stdout
    down = run(cli.commands, ["down"])
    assert down.exit_code == 2 and down.stdout == ""
    assert f"--data {stack.folder.data}" in down.stderr
    logs = run(cli.commands, ["logs", "ingest"])
    assert logs.exit_code == 2
    assert "there are no logs in" in logs.stderr and f"--data {stack.folder.data}" in logs.stderr
    told = orjson.loads(run(cli.commands, ["down", "--json"]).stdout)
    assert told == {"up": False, "changed": False, "elsewhere": str(stack.folder.data)}
    with pytest.raises(StackError, match=f"the stack of {stack.folder.data} is on its ports"):
        Stack(stack.settings.model_copy(update={"data": elsewhere / "data"})).up()
    assert list(elsewhere.iterdir()) == [], "a call in the wrong place leaves no folder there"
    assert look(stack).up, "nobody else's stack was touched"

    stack.down()
    nothing = run(cli.commands, ["down", "--data", str(tmp_path / "third")])
    assert nothing.exit_code == 0
    assert nothing.stdout == f"✓ Nothing was up; data in {tmp_path / 'third'}\n"
    assert not (tmp_path / "third").exists()


def test_one_at_a_time(make_stack: MakeStack) -> None:
    stack = make_stack()
    with stack._lock(), pytest.raises(StackError, match="another `truyvet up` or `down` is at work"):
        stack.up()


@pytest.mark.parametrize("name", ["50%", "a ;b", "x,y", "line\nfeed"])
def test_a_folder_that_the_process_manager_cannot_name_is_refused(name: str) -> None:
    with pytest.raises(SupervisorError, match="choose a data folder without"):
        configuration(Folder(Path("/nowhere") / name), [])


def test_a_long_folder_gets_its_socket_elsewhere() -> None:
    near, far = Folder(Path("/srv/truyvet")), Folder(Path("/srv") / ("x" * 90))
    assert near.socket == near.run / "supervisor.sock"
    assert len(str(far.socket)) < 100
    assert far.socket != Folder(Path("/srv") / ("y" * 90)).socket
