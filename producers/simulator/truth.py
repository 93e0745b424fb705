"""The truth of a simulation, in files beside it, for whoever checks a pipeline.

`marks.npz`: person (uint64), venue (number), minute (of the epoch), kind (0 in, 1 out, 2 void), a row a
distinct mark. `venues.json`: code, parent, dwell of each venue, in the order of the numbers.
`rejected.json`: scans by the reason for which they must be refused.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from producers.simulator.stream import Truth
from schemas.events import Venue


def write_truth(folder: Path, truth: Truth, venues: Sequence[Venue]) -> None:
    """Write the three files; the folder is made. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(
        folder / "marks.npz",
        person=truth.person,
        venue=truth.venue,
        minute=truth.minute,
        kind=truth.kind,
    )
    places = [{"code": venue.code, "parent": venue.parent, "dwell": venue.dwell} for venue in venues]
    (folder / "venues.json").write_text(json.dumps(places) + "\n", encoding="utf-8")
    (folder / "rejected.json").write_text(json.dumps(truth.rejected, sort_keys=True) + "\n", encoding="utf-8")
