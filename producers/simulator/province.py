"""The province: venues over the sectors and districts, people with a home, a workplace or school, a market.

Everything follows from the seed. Shares and dwell times are plausible, not measured: what matters to the
system is how many scans meet where, and that markets have stalls and hospitals wards.
"""

from __future__ import annotations

from collections.abc import Sequence
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


# Numbers of venues and of persons are packed into columns of 16 and 32 bits.
MOST_VENUES: Final = 30_000
MOST_PEOPLE: Final = 1 << 30

Numbers = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Province:
    """Venues by column, and for each person (by number) the pseudonym and the places of habit.

    Numbers of venues throughout. `inside` is how many stalls or wards a venue has; they follow it at once.
    """

    venues: list[Venue]
    sector: NDArray[np.str_]
    inside: Numbers
    people: NDArray[np.uint64]
    work: Numbers
    market: Numbers


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
    """The province of a seed. Raises ValueError when there is nobody or no place to go, or too many."""
    if not (1 <= people <= MOST_PEOPLE and 10 <= venues <= MOST_VENUES):
        raise ValueError(
            f"a province has 1 to {MOST_PEOPLE:,} people and 10 to {MOST_VENUES:,} venues,"
            f" not {people:,} and {venues:,}"
        )
    chance = np.random.default_rng([seed, 1])
    register = _venues(venues, chance)
    sector = np.array([venue.sector for venue in register])
    district = np.array([list(_DISTRICTS).index(venue.district) for venue in register])
    top = np.array([venue.parent is None for venue in register])
    number = {venue.code: place for place, venue in enumerate(register)}
    inside = np.zeros(venues, np.int64)
    for venue in register:
        if venue.parent is not None:
            inside[number[venue.parent]] += 1
    # places differ in size: a few draw most people
    weight = chance.pareto(2.0, size=venues) + 0.3
    home = chance.choice(len(_DISTRICTS), size=people, p=list(_DISTRICTS.values()))

    def pick(sectors: Sequence[Sector], near: float) -> Numbers:
        """A place for everybody: with the chance `near` in the district of their home, if it has one."""
        found = np.empty(people, np.int64)
        stays = chance.random(people) < near
        fitting = np.isin(sector, sectors) & top
        for where in (None, *range(len(_DISTRICTS))):
            who = np.flatnonzero(~stays if where is None else stays & (home == where))
            candidates = np.flatnonzero(fitting if where is None else fitting & (district == where))
            if not len(candidates):
                candidates = np.flatnonzero(fitting) if fitting.any() else np.flatnonzero(top)
            share = weight[candidates] / weight[candidates].sum()
            found[who] = candidates[chance.choice(len(candidates), size=len(who), p=share)]
        return found

    student = chance.random(people) < 0.25
    return Province(
        venues=register,
        sector=sector,
        inside=inside,
        people=_pseudonyms(people, chance),
        work=np.where(
            student,
            pick(("education", "university"), 0.9),
            pick(("trade", "district", "health", "transport", "lodging"), 0.6),
        ),
        market=pick(("trade",), 0.95),
    )
