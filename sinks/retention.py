"""How long the archive keeps personal data: a TTL on every table that names persons.

It is a setting, not a migration: changed, it is put on at the next start of the archive role. The case
tables have none: a withdrawal must not expire before what it withdraws; they go by erasure.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from typing import Final

from clickhouse_driver import Client

log = logging.getLogger(__name__)

_LATEST: Final = 3_786_912_000  # 2090: a DateTime ends in 2106, past which a TTL would wrap round and delete

# table → the second that a row speaks of. It is a function of the key, or else a newer version of a row could
# expire before an older one, which would then stand again.
_MOMENTS: Final = {
    "visits": "hour * 3600",
    "visits_by_person": "hour * 3600",
    "exposures": "toInt64(toInt32(date)) * 86400",
    "venue_warnings": "toInt64(toInt32(date)) * 86400",
    "rejected": "intDiv(arrival, 1000)",
}


@dataclass(frozen=True, slots=True)
class Kept:
    """One table: for how many days it keeps rows (None: for ever), how many it has, and how many of them are
    older than they may become. `oldest`: ms that the oldest row speaks of, None without rows."""

    table: str
    days: int | None
    rows: int
    due: int
    oldest: int | None


def kept(client: Client, days: int, now_ms: int) -> list[Kept]:
    """What stands of retention beside the `days` that are wanted, a table each, in the order of names.

    Raises the client's own errors.
    """
    found = []
    for table, present in _ttl(client).items():
        moment = _MOMENTS[table]
        ((rows, due, oldest),) = client.execute(
            f"SELECT count(), countIf({moment} < %(before)s), min({moment}) FROM {table}",  # noqa: S608 (constants)
            {"before": now_ms // 1000 - days * 86_400},
        )
        found.append(Kept(table, present, rows, due, oldest * 1000 if rows else None))
    return found


def keep_for(client: Client, days: int, wait: bool = False) -> list[str]:
    """Put the TTL on tables that have another one; returns their names.

    `wait`: until what is older is deleted, in every table; otherwise it goes as parts merge.
    Raises the client's own errors.
    """
    changed = []
    for name, present in _ttl(client).items():
        if present != days:
            # names and moments are constants of this module, days is an integer
            moment = f"toDateTime(least({_MOMENTS[name]}, {_LATEST}), 'UTC')"
            client.execute(f"ALTER TABLE {name} MODIFY TTL {moment} + toIntervalDay({int(days)})")
            changed.append(name)
            log.info("table %s keeps rows for %d days", name, days)
        if wait:
            client.execute(f"ALTER TABLE {name} MATERIALIZE TTL", settings={"mutations_sync": 2})
    return changed


def _ttl(client: Client) -> dict[str, int | None]:
    """Table → days of its TTL."""
    rows = client.execute(
        "SELECT name, engine_full FROM system.tables"
        " WHERE database = currentDatabase() AND name IN %(names)s",
        {"names": tuple(_MOMENTS)},
    )
    found = {}
    for name, engine in sorted(rows):
        present = re.search(r"\+ toIntervalDay\((\d+)\)", engine)
        found[name] = int(present[1]) if present else None
    return found
