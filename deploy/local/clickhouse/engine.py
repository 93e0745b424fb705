"""chDB: one engine per data folder, one session per client.

A chDB connection has its own current database, settings and temporary tables, and connections of one process
run in parallel without holding Python's lock, so a client's session is simply a connection of its own.

Rows are handed over as a file in memory (`INSERT … FROM INFILE '/dev/fd/N' FORMAT Native`), not by chDB's
`send_insert`: that call (4.4.0) reports success when the write itself fails, for example on a violated
constraint or in a materialized view, and the rows are gone.
"""

from __future__ import annotations

import fcntl
import itertools
import logging
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import RawIOBase
from pathlib import Path
from typing import IO, Any

import chdb
import orjson

from deploy.local.clickhouse.blocks import Block, header_of, split_native
from deploy.local.clickhouse.errors import (
    CANNOT_PARSE_DATA,
    NO_SUCH_COLUMN_IN_TABLE,
    QUERY_WAS_CANCELLED,
    UNKNOWN_SETTING,
    ServerError,
    from_engine,
)
from deploy.local.clickhouse.memory import append, memory_file
from deploy.local.clickhouse.packets import Setting
from deploy.local.clickhouse.statements import Insert, Statement

log = logging.getLogger(__name__)

_NOT_STREAMED = "Streaming query is not supported"
# How a table that is made from now on is laid out on disk; one that is there keeps its own granules. A
# question about one person or venue reads a granule of each column and part: small ones, and packed small,
# take 0.4 to 0.9 of the CPU time (docs/LOOKUPS.md). ClickHouse's own: 8192 rows, 65536 bytes.
# Flushes come twice a second, and merges of what they brought are most of the engine's work: at 10 parts of a
# size instead of 5 they take half (docs/DESIGN.md, Measured).
_CONFIGURATION = """<clickhouse>
    <merge_tree>
        <index_granularity>1024</index_granularity>
        <min_compress_block_size>8192</min_compress_block_size>
        <merge_selector_base>10</merge_selector_base>
    </merge_tree>
</clickhouse>
"""
_MARK = "log_comment"  # the one setting by which system.processes tells sessions apart


class DataFolderError(RuntimeError):
    """The data folder cannot be opened, most often because another process owns it."""


@dataclass(frozen=True, slots=True)
class Part:
    """Some rows of a result, and what the engine has read for them."""

    block: Block
    rows_read: int
    bytes_read: int


class Engine:
    """The engine over one data folder. Raises DataFolderError when another process has it."""

    def __init__(self, folder: Path, query_memory: int) -> None:
        if any(sign in str(folder) for sign in "?&"):  # chDB takes what follows for options
            raise DataFolderError(f"The data folder {folder} has a ? or & in its name: choose another")
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = _locked(folder / "engine.lock")
        self._path = str(folder.resolve())
        self._configuration = folder.resolve() / "engine.xml"
        self._configuration.write_text(_CONFIGURATION, encoding="ascii")
        self._query_memory = query_memory
        self._marks = itertools.count(1)
        # Kept open: chDB ends the engine when its last connection closes.
        self._control = self._connect()
        with_settings = self.connect("")
        self.settings = changed_settings(with_settings)  # asked once: it takes several milliseconds
        with_settings.close()
        facts = orjson.loads(
            self._control.query("SELECT version(), timezone(), hostName()", "JSONCompactEachRow").bytes()
        )
        numbers = [int(number) for number in str(facts[0]).split(".")[:3]]
        self.version: tuple[int, int, int] = (numbers[0], numbers[1], numbers[2])
        self.timezone = str(facts[1])
        self.display_name = str(facts[2])

    def _connect(self) -> Any:
        try:
            return chdb.connect(f"{self._path}?config-file={self._configuration}")
        except RuntimeError as error:
            raise DataFolderError(
                f"The data folder {self._path} cannot be opened: another process uses it, or it is not "
                f"writable. Stop that process or choose another folder ({error})"
            ) from None

    def session(self) -> Session:
        """A session for one client."""
        return Session(self, f"session-{os.getpid()}-{next(self._marks)}")

    def connect(self, mark: str) -> Any:
        """A connection that behaves as the server, not as the local tool, and that `kill` finds."""
        connection = self._connect()
        connection.query(
            "SET implicit_select = 0, allow_introspection_functions = 0, "
            f"max_memory_usage = {self._query_memory}, {_MARK} = {quoted(mark)}"
        )
        return connection

    def kill(self, mark: str) -> None:
        """Ask the running statement of a session to stop. It then fails with QUERY_WAS_CANCELLED."""
        self._control.query(f"KILL QUERY WHERE Settings['{_MARK}'] = {quoted(mark)} ASYNC")

    def close(self) -> None:
        """End the engine; every session must be closed before."""
        self._control.close()
        self._lock.close()


class Session:
    """What one client sees: its database, settings, temporary tables. For one thread at a time."""

    def __init__(self, engine: Engine, mark: str) -> None:
        self._engine = engine
        self._own_mark = mark
        self._connection = engine.connect(mark)
        # What a setting goes back to after a query with its own value.
        self._defaults = {**engine.settings, _MARK: mark}
        self._of_query: dict[str, str] = {}
        self._database = "default"
        self._aside: Any = None

    @property
    def mark(self) -> str:
        """What `Engine.kill` finds the running statement by."""
        return self._of_query.get(_MARK) or self._defaults.get(_MARK) or self._own_mark

    def close(self) -> None:
        """Cancel what is open and give everything back."""
        self._connection.close()
        if self._aside is not None:
            self._aside.close()

    def use(self, database: str) -> None:
        """Change the current database. Raises ServerError (81) when there is none of that name."""
        self._query(f"USE {identifier(database)}")
        self._database = database

    def apply(self, settings: Iterable[Setting]) -> None:
        """Give the coming statement exactly these settings over the session's.

        Raises ServerError for a bad value, and for an unknown setting that is important; another unknown
        one is logged and ignored, as the server does.
        """
        wanted = {setting.name: setting for setting in settings}
        for name in [name for name in self._of_query if name not in wanted]:
            self._restore(name)
        for name, setting in wanted.items():
            if self._of_query.get(name) == setting.value:
                continue
            try:
                self._query(f"SET {identifier(name)} = {quoted(setting.value)}")
            except ServerError as error:
                if error.code != UNKNOWN_SETTING or setting.important:
                    raise
                log.warning("unknown setting %s is ignored", name)
            else:
                self._of_query[name] = setting.value

    def _restore(self, name: str) -> None:
        value = self._defaults.get(name)
        try:
            self._query(f"SET {identifier(name)} = {'DEFAULT' if value is None else quoted(value)}")
        except ServerError:  # readonly = 1 cannot be taken back: only a new connection forgets it
            self._connection.close()
            self._connection = self._engine.connect(self._own_mark)
            self._of_query.clear()
            for other, kept in self._defaults.items():
                if other != "database":
                    self._query(f"SET {identifier(other)} = {quoted(kept)}")
            self.use(self._database)
        else:
            self._of_query.pop(name, None)

    def execute(self, statement: Statement, parameters: dict[str, str]) -> Iterator[Part]:
        """Run a statement. A SELECT is streamed, a block at a time; the others are complete before.

        The first part of a result with columns is its header (0 rows). Raises ServerError, also after the
        first parts.
        """
        parts = self._streamed(statement, parameters) if statement.reads else None
        if parts is not None:
            yield from parts
            return
        with _as_server_error():
            result = self._connection.query(statement.text, "Native", params=parameters)
            native = bytes(result.bytes())
        if statement.keyword == "SET":
            kept = {name: value for name, value in self._defaults.items() if name in self._of_query}
            now = changed_settings(self._connection)
            self._defaults = {n: value for n, value in now.items() if n not in self._of_query} | kept
        elif statement.keyword == "USE":
            self._database = orjson.loads(self.run("SELECT currentDatabase()", {}, "JSONCompactEachRow"))[0]
        blocks = list(split_native(native))
        if blocks:
            yield Part(blocks[0].header(), 0, 0)
        for block in blocks:
            yield Part(block, block.rows, block.size)

    def _streamed(self, statement: Statement, parameters: dict[str, str]) -> Iterator[Part] | None:
        try:
            with _as_server_error():
                stream = self._connection.send_query(statement.text, "Native", params=parameters)
        except ServerError as error:
            if _NOT_STREAMED in error.message:  # WITH … INSERT … SELECT
                return None
            raise
        return self._parts(stream, statement, parameters)

    def _parts(self, stream: Any, statement: Statement, parameters: dict[str, str]) -> Iterator[Part]:
        empty = True
        types: list[str] | None = None
        try:
            while True:
                with _as_server_error():
                    chunk = stream.fetch()
                if chunk is None:
                    break
                read = chunk.storage_rows_read(), chunk.storage_bytes_read()
                for block in split_native(bytes(chunk.bytes())):
                    if empty:
                        types = self._types_with_zones(block, statement, parameters)
                        yield Part(block.with_types(types).header() if types else block.header(), 0, 0)
                        empty = False
                    yield Part(block.with_types(types) if types else block, *read)
                    read = 0, 0
        finally:
            stream.close()
        if empty:
            yield Part(self._header(statement, parameters), 0, 0)

    def _types_with_zones(
        self, block: Block, statement: Statement, parameters: dict[str, str]
    ) -> list[str] | None:
        """The types of a SELECT with their time zones, None when no block can lack one.

        chDB writes Native as for the oldest clients, which knew DateTime without a zone only. The stream
        is open, so another connection is asked. It knows no temporary tables: their zones are left out.
        """
        kinds = [column.type for column in block.columns]
        if "DateTime" not in kinds:
            return None
        try:
            if self._aside is None:
                self._aside = self._engine.connect(self._own_mark)
            with _as_server_error():
                self._aside.query(f"USE {identifier(self._database)}")
            described = [
                kind for _, kind in self._described(f"({statement.text}\n)", parameters, self._aside)
            ]
        except ServerError as error:
            log.info("the time zones of a result are unknown: %s", error.message)
            return None
        if len(described) != len(kinds):
            return None
        return [
            full if kind == "DateTime" and full.startswith("DateTime(") else kind
            for kind, full in zip(kinds, described, strict=True)
        ]

    def _header(self, statement: Statement, parameters: dict[str, str]) -> Block:
        """The columns of a SELECT without rows, for which chDB's Native output is empty."""
        return header_of(self._described(f"({statement.text}\n)", parameters))

    def totals(self, statement: Statement, parameters: dict[str, str]) -> Block | None:
        """The row of WITH TOTALS, which the Native format leaves out: asked again in a format that has it."""
        answer = orjson.loads(self.run(statement.text, parameters, "JSONCompactStrings"))
        row = answer.get("totals")
        if row is None:
            return None
        structure = ", ".join(f"{identifier(column['name'])} {column['type']}" for column in answer["meta"])
        line = orjson.dumps(row).decode()
        source = f"format(JSONCompactStringsEachRow, {quoted(structure)}, {quoted(line)})"
        query = f"SELECT * FROM {source}"  # noqa: S608 (its parts are quoted)
        return next(split_native(self.run(query, {}, "Native")), None)

    def insert_header(self, insert: Insert) -> Block:
        """The columns that an INSERT takes, with their types. Raises ServerError (60, 16)."""
        columns = self._described(insert.described, {}, all_kinds=insert.listed is not None)
        if insert.listed is None:
            return header_of([column for column in columns if column[0] not in insert.excluded])
        types = dict(columns)
        unknown = [name for name in insert.listed if name not in types]
        if unknown:
            raise ServerError(
                NO_SUCH_COLUMN_IN_TABLE,
                f"No such column {unknown[0]} in table {insert.described}. (NO_SUCH_COLUMN_IN_TABLE)",
            )
        return header_of([(name, types[name]) for name in insert.listed])

    def _described(
        self, what: str, parameters: dict[str, str], connection: Any = None, all_kinds: bool = True
    ) -> list[tuple[str, str]]:
        with _as_server_error():
            answer = (connection or self._connection).query(
                f"DESCRIBE TABLE {what}", "JSONCompactEachRow", params=parameters
            )
        rows = [orjson.loads(line) for line in bytes(answer.bytes()).splitlines()]
        return [(row[0], row[1]) for row in rows if all_kinds or row[2] in {"", "DEFAULT"}]

    def write(self, insert: Insert, rows: RawIOBase) -> tuple[int, int]:
        """Insert the Native blocks of a file, whole or (within a partition) not at all.

        Returns rows and bytes written, those of materialized views included.
        """
        os.lseek(rows.fileno(), 0, os.SEEK_SET)
        source = f"FROM INFILE '/dev/fd/{rows.fileno()}' {insert.settings} FORMAT Native"
        with _as_server_error():
            result = self._connection.query(f"INSERT INTO {insert.target} {source}", "Native")
        return int(result.rows_written()), int(result.bytes_written())

    def add_external(self, name: str, block: Block) -> None:
        """Make a temporary table of a block that came beside a query, or add to it."""
        columns = ", ".join(f"{identifier(column.name)} {column.type}" for column in block.columns)
        self._query(f"CREATE TEMPORARY TABLE IF NOT EXISTS {identifier(name)} ({columns}) ENGINE = Memory")
        if block.rows:
            with memory_file() as rows:
                append(rows, block.native())
                self.write(Insert(identifier(name), "", None, frozenset(), ""), rows)

    def drop_external(self, name: str) -> None:
        """Remove what `add_external` made."""
        self._query(f"DROP TEMPORARY TABLE IF EXISTS {identifier(name)}")

    def run(self, text: str, parameters: dict[str, str], output_format: str) -> bytes:
        """The whole answer to a statement in an output format."""
        with _as_server_error():
            return bytes(self._connection.query(text, output_format, params=parameters).bytes())

    def _query(self, text: str) -> None:
        self.run(text, {}, "Native")


def changed_settings(connection: Any) -> dict[str, str]:
    """The settings of a chDB connection that are not the engine's defaults, by name, as texts."""
    query = "SELECT name, value FROM system.settings WHERE changed"
    with _as_server_error():
        lines = bytes(connection.query(query, "JSONCompactEachRow").bytes()).splitlines()
    return dict(orjson.loads(line) for line in lines)


def quoted(value: str) -> str:
    """A string literal."""
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def identifier(name: str) -> str:
    """A quoted name."""
    return "`" + name.replace("\\", "\\\\").replace("`", "\\`") + "`"


@contextmanager
def _as_server_error() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise from_engine(error) from None
    except UnicodeEncodeError:
        raise ServerError(CANNOT_PARSE_DATA, "The query is not UTF-8: send other bytes as data") from None


def is_cancelled(error: ServerError) -> bool:
    """Whether a statement failed because it was asked to stop."""
    return error.code == QUERY_WAS_CANCELLED


def _locked(path: Path) -> IO[str]:
    file = path.open("a+", encoding="ascii")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.seek(0)
        owner = file.read().strip() or "unknown"
        file.close()
        raise DataFolderError(
            f"The data folder {path.parent} is in use by process {owner}: stop it, or choose another folder"
        ) from None
    file.truncate(0)
    file.write(str(os.getpid()))
    file.flush()
    return file
