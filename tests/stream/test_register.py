"""The register of venues: who is above whom, however it came to be so."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from schemas.codes import new_code
from schemas.departments import department_of
from schemas.events import Venue
from stream_processors.venues import Register

_CODES = sorted(new_code((), choose=random.Random(seed).choice) for seed in range(6))


def venue(code: str, parent: str | None) -> Venue:
    return Venue(
        code=code,
        name="Sạp",
        sector="trade",
        district="hue",
        department=department_of("trade", "hue"),
        parent=parent,
        dwell=60,
    )


@given(
    st.lists(
        st.tuples(st.sampled_from(_CODES), st.none() | st.sampled_from(_CODES), st.booleans()), max_size=30
    )
)
def test_what_is_above_many_is_what_is_above_each_after_every_change(
    changes: list[tuple[str, str | None, bool]],
) -> None:
    """Also with parents that are not known, and in circles, which the topic may hold for a while."""
    register = Register()
    for code, parent, asked in changes:
        register.put(venue(code, parent if parent != code else None))
        if asked:
            wanted = {code: above for code in _CODES if (above := register.ancestors(code))}
            assert register.ancestors_of(set(_CODES)) == wanted
            assert register.ancestors_of(set(_CODES)) == wanted  # from what is remembered
