"""Who leads what: the province's table, row by row."""

from __future__ import annotations

import pytest

from schemas.departments import (
    DEPARTMENTS,
    DISTRICTS,
    SECTORS,
    Sector,
    department_name,
    department_of,
    district_name,
)


@pytest.mark.parametrize(
    ("sector", "slug", "name"),
    [
        ("health", "so-y-te", "Sở Y tế"),
        ("education", "so-giao-duc-dao-tao", "Sở Giáo dục và Đào tạo"),
        ("lodging", "so-du-lich", "Sở Du lịch"),
        ("trade", "so-cong-thuong", "Sở Công Thương"),
        ("transport", "so-giao-thong-van-tai", "Sở Giao thông vận tải"),
        ("district", "ubnd-a-luoi", "UBND huyện A Lưới"),
        ("university", "dai-hoc-hue", "Đại học Huế"),
    ],
)
def test_leads(sector: Sector, slug: str, name: str) -> None:
    assert department_of(sector, "a-luoi") == slug
    assert department_name(slug) == name


def test_every_venue_has_a_named_department() -> None:
    found = {department_of(sector, district) for sector in SECTORS for district in DISTRICTS}
    assert found == set(DEPARTMENTS)
    assert len(DISTRICTS) == 9 and len(DEPARTMENTS) == 15
    assert all(department_name(slug) != slug for slug in DEPARTMENTS)


def test_another_province_keeps_its_slugs() -> None:
    assert department_of("district", "hai-chau") == "ubnd-hai-chau"
    assert department_name("ubnd-hai-chau") == "ubnd-hai-chau"
    assert district_name("hai-chau") == "hai-chau"
    assert district_name("hue") == "thành phố Huế"
