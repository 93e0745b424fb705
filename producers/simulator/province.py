"""The province: venues over the sectors and districts, people with a workplace, a school, a market.

Everything follows from the seed. Shares and dwell times are plausible, not measured: what matters to the
system is how many scans meet where, and that markets have stalls and hospitals wards.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from schemas.codes import ALPHABET, new_code
from schemas.departments import Sector, department_of
from schemas.events import Venue

# share of all venues, dwell minutes, words for names
_SECTORS: Final[dict[Sector, tuple[float, int, tuple[str, ...]]]] = {
    "trade": (0.46, 60, ("Chợ", "Siêu thị", "Cửa hàng", "Quán cà phê", "Nhà hàng", "Tiệm thuốc")),
    "education": (0.16, 300, ("Trường Tiểu học", "Trường THCS", "Trường THPT", "Trường Mầm non")),
    "health": (0.10, 120, ("Bệnh viện", "Trung tâm Y tế", "Trạm Y tế", "Phòng khám")),
    "lodging": (0.12, 720, ("Khách sạn", "Nhà nghỉ", "Homestay")),
    "transport": (0.03, 60, ("Bến xe", "Ga", "Bến thuyền")),
    "district": (0.09, 60, ("UBND phường", "UBND xã", "Nhà văn hóa")),
    "university": (0.04, 240, ("Giảng đường", "Thư viện", "Ký túc xá")),
}
# population shares of the districts, roughly: the city holds a third
_DISTRICTS: Final = {
    "hue": 0.34,
    "huong-thuy": 0.10,
    "huong-tra": 0.10,
    "phong-dien": 0.09,
    "quang-dien": 0.08,
    "phu-vang": 0.11,
    "phu-loc": 0.12,
    "nam-dong": 0.02,
    "a-luoi": 0.04,
}
_PLACES: Final = (
    "An Cựu",
    "Vỹ Dạ",
    "Kim Long",
    "Phú Bài",
    "Tứ Hạ",
    "Sịa",
    "Thuận An",
    "Lăng Cô",
    "Khe Tre",
    "Bồ",
)
_STALL_DWELL: Final = 30
_WARD_DWELL: Final = 720


@dataclass(frozen=True, slots=True)
class Province:
    """Venues, and for each person (by number) the pseudonym and the places of habit (numbers of venues)."""

    venues: list[Venue]
    dwell: NDArray[np.int64]
    sector: NDArray[np.str_]
    people: NDArray[np.uint64]
    work: NDArray[np.int64]
    market: NDArray[np.int64]


def _venues(count: int, chance: np.random.Generator) -> list[Venue]:
    venues: list[Venue] = []
    taken: set[str] = set()

    def add(name: str, sector: Sector, district: str, dwell: int, parent: str | None = None) -> Venue:
        code = new_code(taken, choose=lambda letters: letters[int(chance.integers(len(ALPHABET)))])
        taken.add(code)
        venue = Venue(
            code=code,
            name=name,
            sector=sector,
            district=district,
            department=department_of(sector, district),
            dwell=dwell,
            parent=parent,
            capacity=int(chance.integers(20, 2000)),
        )
        venues.append(venue)
        return venue

    sectors = list(_SECTORS)
    shares = np.array([_SECTORS[sector][0] for sector in sectors])
    districts = list(_DISTRICTS)
    while len(venues) < count:
        sector = sectors[int(chance.choice(len(sectors), p=shares / shares.sum()))]
        district = districts[int(chance.choice(len(districts), p=list(_DISTRICTS.values())))]
        _, dwell, words = _SECTORS[sector]
        word = words[int(chance.integers(len(words)))]
        place = _PLACES[int(chance.integers(len(_PLACES)))]
        venue = add(f"{word} {place} {len(venues) + 1}", sector, district, dwell)
        inner = {"Chợ": ("Sạp", _STALL_DWELL), "Bệnh viện": ("Khoa", _WARD_DWELL)}.get(word)
        if inner is not None:
            for number in range(int(chance.integers(2, 7))):
                if len(venues) < count:
                    name = f"{venue.name} - {inner[0]} {number + 1}"
                    add(name, sector, district, inner[1], venue.code)
    return venues


def _pseudonyms(count: int, chance: np.random.Generator) -> NDArray[np.uint64]:
    people = np.unique(chance.integers(1, 2**63, size=count + count // 1000 + 16, dtype=np.uint64))
    return chance.permutation(people)[:count]


def make_province(people: int, venues: int, seed: int) -> Province:
    """The province of a seed. Raises ValueError when there is nobody or no place to go."""
    if people < 1 or venues < 10:
        raise ValueError("a province has at least one person and ten venues")
    chance = np.random.default_rng([seed, 1])
    register = _venues(venues, chance)
    sector = np.array([venue.sector for venue in register])
    # places differ in size: a few draw most people
    weight = chance.pareto(1.2, size=venues) + 0.2

    def pick(where: NDArray[np.bool_], size: int) -> NDArray[np.int64]:
        candidates = np.flatnonzero(where) if where.any() else np.arange(venues)
        share = weight[candidates] / weight[candidates].sum()
        return candidates[chance.choice(len(candidates), size=size, p=share)].astype(np.int64)

    student = chance.random(people) < 0.25
    work = np.where(
        student,
        pick(np.isin(sector, ["education", "university"]), people),
        pick(np.isin(sector, ["trade", "district", "health", "transport"]), people),
    )
    return Province(
        venues=register,
        dwell=np.array([venue.dwell for venue in register]),
        sector=sector,
        people=_pseudonyms(people, chance),
        work=work,
        market=pick(sector == "trade", people),
    )
