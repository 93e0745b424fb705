"""Who leads what: sector → lead department (Thừa Thiên Huế, January 2021)."""

from __future__ import annotations

from typing import Final, Literal, get_args

Sector = Literal["health", "education", "lodging", "trade", "transport", "district", "university"]
SECTORS: Final[tuple[Sector, ...]] = get_args(Sector)

# district: the lead is the People's Committee of that district itself
_LEADS: Final[dict[str, str]] = {
    "health": "so-y-te",
    "education": "so-giao-duc-dao-tao",
    "lodging": "so-du-lich",
    "trade": "so-cong-thuong",
    "transport": "so-giao-thong-van-tai",
    "university": "dai-hoc-hue",
}
_DISTRICT_NAMES: Final[dict[str, str]] = {
    "hue": "thành phố Huế",
    "huong-thuy": "thị xã Hương Thủy",
    "huong-tra": "thị xã Hương Trà",
    "phong-dien": "huyện Phong Điền",
    "quang-dien": "huyện Quảng Điền",
    "phu-vang": "huyện Phú Vang",
    "phu-loc": "huyện Phú Lộc",
    "nam-dong": "huyện Nam Đông",
    "a-luoi": "huyện A Lưới",
}

# the districts of the province in January 2021; another province may use slugs of its own
DISTRICTS: Final[tuple[str, ...]] = tuple(_DISTRICT_NAMES)
_NAMES: Final[dict[str, str]] = {
    "so-y-te": "Sở Y tế",
    "so-giao-duc-dao-tao": "Sở Giáo dục và Đào tạo",
    "so-du-lich": "Sở Du lịch",
    "so-cong-thuong": "Sở Công Thương",
    "so-giao-thong-van-tai": "Sở Giao thông vận tải",
    "dai-hoc-hue": "Đại học Huế",
} | {f"ubnd-{slug}": f"UBND {name}" for slug, name in _DISTRICT_NAMES.items()}

DEPARTMENTS: Final[tuple[str, ...]] = tuple(_NAMES)


def department_of(sector: Sector, district: str) -> str:
    """The slug of the department that leads a venue of this sector in this district."""
    return _LEADS.get(sector) or f"ubnd-{district}"


def department_name(slug: str) -> str:
    """The Vietnamese name of a department; of one outside the province, its slug."""
    return _NAMES.get(slug, slug)


def district_name(slug: str) -> str:
    """The Vietnamese name of a district; of one outside the province, its slug."""
    return _DISTRICT_NAMES.get(slug, slug)
