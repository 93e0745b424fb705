"""How long the archive keeps personal data: a TTL on every table that names persons.

It is a setting, not a migration: changed, it is put on at the next start of the archive role. The case
tables have none: a withdrawal must not expire before what it withdraws; they go by erasure.
"""

from __future__ import annotations

import logging
import re
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


def keep_for(client: Client, days: int) -> list[str]:
    """Put the TTL on tables that have another one; returns their names.

    Raises the client's own errors.
    """
    rows = client.execute(
        "SELECT name, engine_full FROM system.tables"
        " WHERE database = currentDatabase() AND name IN %(names)s",
        {"names": tuple(_MOMENTS)},
    )
    changed = []
    for name, engine in sorted(rows):
        present = re.search(r"\+ toIntervalDay\((\d+)\)", engine)
        if present is None or int(present[1]) != days:
            # names and moments are constants of this module, days is an integer
            moment = f"toDateTime(least({_MOMENTS[name]}, {_LATEST}), 'UTC')"
            client.execute(f"ALTER TABLE {name} MODIFY TTL {moment} + toIntervalDay({int(days)})")
            changed.append(name)
            log.info("table %s keeps rows for %d days", name, days)
    return changed
