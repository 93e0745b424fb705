"""The reference alert consumer's judgement of versions: pure."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from deploy.alerts import Newest
from schemas.events import Exposure, exposure_id, exposure_version

PERSON, CODE = "0123456789abcdef", "M54HV62T"


def exposure(version: int, status: str = "exposed", case_id: str = "c1", **more: object) -> Exposure:
    fields: dict[str, object] = {
        "exposure_id": exposure_id(case_id, PERSON, CODE, "2021-02-08"),
        "case_id": case_id,
        "person": PERSON,
        "venue": CODE,
        "sector": "trade",
        "department": "so-cong-thuong",
        "date": "2021-02-08",
        "first": 1_612_769_400_000,
        "last": 1_612_773_000_000,
        "minutes": 60,
        "status": status,
        "case_version": 1,
        "evidence": version,
        "version": exposure_version(1, version),
    }
    return Exposure.model_validate(fields | more)


def test_new_changed_withdrawn_and_new_again() -> None:
    newest = Newest()
    assert newest.take(exposure(1)) == "new"
    assert newest.take(exposure(1)) is None
    assert newest.take(exposure(3, minutes=30)) == "changed"
    assert newest.take(exposure(2)) is None
    assert newest.take(exposure(4, "withdrawn")) == "withdrawn"
    assert newest.take(exposure(3)) is None
    assert newest.take(exposure(5)) == "new"
    assert newest.ignored == 3


def test_exposures_do_not_disturb_each_other() -> None:
    newest = Newest()
    assert newest.take(exposure(9)) == "new"
    assert newest.take(exposure(1, case_id="c2")) == "new"


@given(st.lists(st.tuples(st.integers(1, 8), st.sampled_from(["exposed", "withdrawn"])), min_size=1))
def test_any_order_ends_at_the_highest_version(arrivals: list[tuple[int, str]]) -> None:
    # one version has one status
    status = dict(arrivals)
    newest = Newest()
    shown = [
        version for version, _ in arrivals if newest.take(exposure(version, status[version])) is not None
    ]
    assert shown == sorted(set(shown)) and shown[-1] == max(version for version, _ in arrivals)
    assert len(shown) + newest.ignored == len(arrivals)
