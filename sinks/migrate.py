"""Migrations of the archive: numbered SQL files, applied in order, recorded with a checksum.

ClickHouse has neither transactions nor locks. So every statement of a migration must be one that may be
carried out twice (CREATE … IF NOT EXISTS, ALTER … ADD COLUMN IF NOT EXISTS): a migration that was cut off
half way is carried out again, and two sinks that start at once do each other no harm.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from clickhouse_driver import Client

FOLDER: Final = Path(__file__).parent / "migrations"

_NAME = re.compile(r"([0-9]{4})_([a-z0-9_]+)\.sql")
_COMMENT = re.compile(r"^\s*--.*$", re.MULTILINE)
_REPEATABLE = re.compile(r"\bIF (NOT )?EXISTS\b|\bCREATE OR REPLACE\b|\bMODIFY\b", re.IGNORECASE)

_TABLE = """
CREATE TABLE IF NOT EXISTS schema_migrations
(
    number     UInt32,
    name       String,
    checksum   String,
    applied_at DateTime64(3, 'UTC')
)
ENGINE = ReplacingMergeTree(applied_at)
ORDER BY (number, checksum)
"""

log = logging.getLogger(__name__)


class MigrationError(RuntimeError):
    """The files and the archive do not fit together; the message says which and what to do."""


@dataclass(frozen=True, slots=True)
class Migration:
    """One file. `checksum` is the SHA-256 of its text, with line ends as \\n."""

    number: int
    name: str
    checksum: str
    statements: tuple[str, ...]


def load(folder: Path = FOLDER) -> list[Migration]:
    """The migrations in a folder, in their order.

    Raises MigrationError for a gap, a number used twice, another file name, or a statement that could not
    be carried out a second time.
    """
    found: dict[int, Migration] = {}
    for path in sorted(folder.glob("*.sql")):
        named = _NAME.fullmatch(path.name)
        if named is None:
            raise MigrationError(f"{path.name}: a migration is called NNNN_what_it_does.sql")
        number = int(named[1])
        if number in found:
            raise MigrationError(f"migration {number:04} is there twice: {found[number].name}, {named[2]}")
        text = path.read_text("utf-8").replace("\r\n", "\n")
        checksum = hashlib.sha256(text.encode()).hexdigest()
        statements = tuple(part.strip() for part in _COMMENT.sub("", text).split(";\n") if part.strip(" ;\n"))
        for statement in statements:
            if not _REPEATABLE.search(statement):
                raise MigrationError(
                    f"{path.name}: {statement.splitlines()[0]!r} cannot be carried out twice:"
                    " use IF NOT EXISTS"
                )
        found[number] = Migration(number, named[2], checksum, statements)
    if sorted(found) != list(range(1, len(found) + 1)):
        missing = min(set(range(1, max(found) + 1)) - set(found))
        raise MigrationError(f"migration {missing:04} is missing in {folder.name}/: numbers have no gaps")
    return [found[number] for number in sorted(found)]


def pending(migrations: Sequence[Migration], applied: Sequence[tuple[int, str, str]]) -> list[Migration]:
    """What is left to do. `applied`: (number, name, checksum) as the archive recorded them.

    Raises MigrationError when the archive is not an earlier state of these files: an applied migration
    changed, one was left out, or the archive is newer than this program.
    """
    known = {migration.number: migration for migration in migrations}
    for number, name, checksum in sorted(applied):
        migration = known.get(number)
        if migration is None:
            raise MigrationError(
                f"the archive has migration {number:04}_{name}, this program knows only up to"
                f" {len(migrations):04}: it is older than the archive; run the newer release"
            )
        if migration.checksum != checksum:
            raise MigrationError(
                f"migration {number:04}_{migration.name} was changed after it had been applied (checksum"
                f" {migration.checksum[:12]}, applied {checksum[:12]}): restore the file and put the change"
                " into a new migration"
            )
    done = {number for number, _, _ in applied}
    if done != set(range(1, len(done) + 1)):
        first = min(set(range(1, max(done) + 1)) - done)
        raise MigrationError(
            f"the archive has migration {max(done):04} but not {first:04}: schema_migrations was changed by"
            " hand; restore its rows"
        )
    return [migration for migration in migrations if migration.number not in done]


def migrate(client: Client, clock_ms: Callable[[], int], folder: Path = FOLDER) -> list[Migration]:
    """Bring the archive up to date and return what was applied. Idempotent.

    Raises MigrationError, and the client's own errors when ClickHouse is away or refuses a statement.
    """
    migrations = load(folder)
    client.execute(_TABLE)
    todo = pending(migrations, _applied(client))
    for migration in todo:
        for statement in migration.statements:
            client.execute(statement)
        row = (
            migration.number,
            migration.name,
            migration.checksum,
            datetime.fromtimestamp(clock_ms() / 1000, UTC),
        )
        client.execute("INSERT INTO schema_migrations (number, name, checksum, applied_at) VALUES", [row])
        log.info("migration %04d_%s applied", migration.number, migration.name)
    # another sink with other files may have been at work meanwhile: its record shows now
    pending(migrations, _applied(client))
    return todo


def _applied(client: Client) -> list[tuple[int, str, str]]:
    rows = client.execute("SELECT DISTINCT number, name, checksum FROM schema_migrations ORDER BY number")
    return [(number, name, checksum) for number, name, checksum in rows]
