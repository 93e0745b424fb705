"""Who of a role's workers gets which partitions: every one a fair share, and as few as possible change hands.

Faust's own assignor leaves a worker that joins two others on four partitions without any (2, 2, 0: within its
limit of ceil(4 / 3)), and gives the tenth worker one of 64 partitions where the others have seven (shown by
tests/stream/test_balance.py). A role has one topic and no tables, so nothing has to be kept side by side.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from faust.assignor.client_assignment import ClientAssignment
from faust.assignor.partition_assignor import PartitionAssignor


def shares(held: Mapping[str, Iterable[int]], partitions: Iterable[int]) -> dict[str, list[int]]:
    """Partitions by member, sorted: the largest share is at most one more than the smallest.

    `held`: what each member had before, none if it is new; it keeps of that as much as its share allows.
    A partition that two say they had (one of them slept through a rebalance) goes to one of them. The answer
    does not depend on the order of the members. Raises ValueError when there is no member.
    """
    if not held:
        raise ValueError("partitions cannot be shared by nobody")
    left = set(partitions)
    kept: dict[str, list[int]] = {}
    # those who have most come first: the larger shares are theirs, so that fewer change hands
    order = sorted(held, key=lambda member: (-len(left.intersection(held[member])), member))
    least, more = divmod(len(left), len(order))
    room = {member: least + (number < more) for number, member in enumerate(order)}
    for member in order:
        kept[member] = sorted(left.intersection(held[member]))[: room[member]]
        left.difference_update(kept[member])
    free = iter(sorted(left))
    for member in order:
        missing = room[member] - len(kept[member])
        kept[member] = sorted(kept[member] + [next(free) for _ in range(missing)])
    return kept


class BalancedAssignor(PartitionAssignor):  # type: ignore[misc]
    """Faust's assignor with shares of our own; its name and what its members tell each other are the same, so
    workers of an older version can stay in the group while it is replaced."""

    def _perform_assignment(self, cluster: Any, member_metadata: Mapping[str, Any]) -> Any:
        clients = {member: self._get_client_metadata(told) for member, told in member_metadata.items()}
        self._update_member_urls(clients)
        actives: dict[str, dict[str, list[int]]] = {member: {} for member in clients}
        for topic in sorted({topic for told in member_metadata.values() for topic in told.subscription}):
            held = {
                member: client.assignment.actives.get(topic, ())
                for member, client in clients.items()
                if topic in member_metadata[member].subscription
            }
            for member, share in shares(held, cluster.partitions_for_topic(topic) or ()).items():
                actives[member][topic] = share
        assignments = {
            member: ClientAssignment(actives=topics, standbys={}) for member, topics in actives.items()
        }
        distribution = self._get_external_topic_distribution(assignments)
        return self._protocol_assignments(assignments, {}, distribution, {})
