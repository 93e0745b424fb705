"""Every topic, declared once: name, partitions, key, clean-up, retention, shape of the value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from schemas import audit, erasure, events

DAY_MS: Final = 86_400_000

# Java's and aiokafka's default: one key has one partition, whoever writes it.
PARTITIONER: Final = "murmur2_random"


# What came in compressed may be larger than max.message.bytes of its topic, and must get out again as it was.
# Up to here every rejected value is kept whole, however badly it compresses.
MOST_KEPT_BYTES: Final = 16_000_000
_MAX_REJECTED_BYTES: Final = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Topic:
    """What is true of a topic on any cluster; the replication factor is the cluster's own."""

    name: str
    about: str
    partitions: int
    key: str | None
    value: object
    compacted: bool = False
    retention_days: int = 7
    max_message_bytes: int = 1_048_588
    headers: tuple[str, ...] = ()

    def config(self) -> dict[str, str]:
        """The topic-level settings, as Kafka names them."""
        common = {"max.message.bytes": str(self.max_message_bytes)}
        if self.compacted:
            return common | {"cleanup.policy": "compact"}
        return common | {"cleanup.policy": "delete", "retention.ms": str(self.retention_days * DAY_MS)}


SCANS: Final = Topic("scans", "Scans as devices and gateways post them", 4, None, events.Scan)
SCANS_REJECTED: Final = Topic(
    "scans.rejected",
    "Original bytes of what was refused, with the reason; replayed once the cause is gone",
    4,
    None,
    bytes,
    retention_days=35,
    max_message_bytes=_MAX_REJECTED_BYTES,
    headers=events.REJECT_HEADERS,
)
VISITS: Final = Topic("visits", "Accepted marks, in arrays, at-least-once", 4, None, events.Visit)
VENUES: Final = Topic("venues", "The register of venues", 1, "code", events.Venue, compacted=True)
CASES: Final = Topic(
    "cases", "Confirmed persons and declared place-times", 4, "case_id", events.Case, compacted=True
)
CASES_REJECTED: Final = Topic(
    "cases.rejected",
    "Original bytes of case records that were refused",
    1,
    None,
    bytes,
    retention_days=365,
    max_message_bytes=_MAX_REJECTED_BYTES,
    headers=events.REJECT_HEADERS,
)
# Kept longer than any dead letter: what was replayed must not look as if it was not.
REJECTED_REPLAYED: Final = Topic(
    "rejected.replayed",
    "Internal: which rejected records were sent once more, when and by whom",
    1,
    None,
    events.Replayed,
    retention_days=400,
)
# One partition: its order is the order of the chain. Kept as long as anybody may be asked to account for it.
LOOKUP_AUDIT: Final = Topic(
    "lookup.audit",
    "Internal: who asked what about whom and why; each row holds the hash of the one before",
    1,
    None,
    audit.AuditRow,
    retention_days=3650,
)
ARCHIVE_REJECTED: Final = Topic(
    "archive.rejected",
    "What ClickHouse refused for its content, as the element of the record that it came from",
    1,
    None,
    bytes,
    retention_days=365,
    max_message_bytes=_MAX_REJECTED_BYTES,
    headers=events.REJECT_HEADERS,
)
ERASED: Final = Topic(
    "erased",
    "Internal: whose data was erased up to when; scans from before are refused",
    1,
    "person",
    erasure.Erased,
    compacted=True,
)
# Its partition count is part of the protocol: one transactional.id a partition.
TOUCHED: Final = Topic(
    "touched", "Internal: what the matcher has to look at again", 4, "venue", events.Touched
)
EXPOSURES: Final = Topic(
    "exposures",
    "Who was exposed; the last record of a key is its highest version; read committed",
    4,
    "exposure_id",
    events.Exposure,
    compacted=True,
)
VENUE_WARNINGS: Final = Topic(
    "venue-warnings",
    "What each department sees of a case at its venues; read committed",
    4,
    "case_id|venue|date",
    events.VenueWarning,
    compacted=True,
    headers=("department",),
)

TOPICS: Final[Mapping[str, Topic]] = {
    topic.name: topic
    for topic in (
        SCANS,
        SCANS_REJECTED,
        VISITS,
        VENUES,
        CASES,
        CASES_REJECTED,
        REJECTED_REPLAYED,
        LOOKUP_AUDIT,
        ERASED,
        TOUCHED,
        EXPOSURES,
        VENUE_WARNINGS,
        ARCHIVE_REJECTED,
    )
}
