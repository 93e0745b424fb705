"""A chain as a tree and as a graph: who was exposed through whom first."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from lookups.answers import Link
from schemas.times import format_time

_NO_XML: Final = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True, slots=True)
class Node:
    """A person of a chain. `exposed`: ms, None for the first case; `parent`: who exposed them first."""

    person: str
    degree: int
    exposed: int | None
    parent: str | None


def tree(origin: str, links: Sequence[Link]) -> list[Node]:
    """One node a person, the first case first, then by time; the earliest link tells the parent."""
    earliest: dict[str, Link] = {}
    for link in links:
        known = earliest.get(link.person)
        if known is None or _order(link) < _order(known):
            earliest[link.person] = link
    found = [Node(each.person, each.degree, each.first, each.source) for each in earliest.values()]
    found.sort(key=lambda node: (node.degree, node.exposed or 0, node.person))
    return [Node(origin, 0, None, None), *found]


def _order(link: Link) -> tuple[int, int, str]:
    return link.first, -link.minutes, link.source


def write_graphml(path: Path, origin: str, links: Sequence[Link]) -> None:
    """Every link as an edge from who exposed to whom, for Gephi, yEd, Cytoscape. Raises OSError."""
    import networkx  # noqa: PLC0415 (takes a fifth of a second, that no other command should wait for)

    graph = networkx.MultiDiGraph()
    for node in tree(origin, links):
        exposed = {} if node.exposed is None else {"exposed": format_time(node.exposed)}
        graph.add_node(node.person, degree=node.degree, **exposed)
    for link in links:
        graph.add_edge(
            link.source,
            link.person,
            venue=link.venue.code,
            name=_NO_XML.sub("�", link.venue.name),
            date=link.date,
            minutes=link.minutes,
            first=format_time(link.first),
            last=format_time(link.last),
        )
    with path.open("wb") as file:
        networkx.write_graphml_xml(graph, file)
