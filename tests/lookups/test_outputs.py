"""truyvet trace: chains, common venues, place-times, and what is written to files."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import networkx
import pytest
from pyarrow import parquet
from typer.testing import CliRunner, Result

from deploy.cli.trace import commands
from lookups.answers import HourOccupancy, Link, Place, Window
from lookups.chains import Node, tree, write_graphml
from lookups.pictures import MOST_PERSONS, TooLargeError, heat_map, transmission_tree
from schemas.codes import check_character
from schemas.settings import Settings
from schemas.times import MS_PER_MINUTE, day_name, day_start, format_time, local_day
from tests.lookups.conftest import World, clock_ms

CASE, FIRST, SECOND, ALONE = "00000000000000aa", "fedcba9876543210", "0000000000000003", "0000000000000004"
MARKET, STALL = ("CDEFH" + letter + check_character("CDEFH" + letter) for letter in "JK")
DAY = local_day(clock_ms() // MS_PER_MINUTE) - 3
EIGHT = day_start(DAY) + 8 * 60  # 08:00 local
NAME = '=Chợ $x$ <Đông> & "Ba"'
WINDOW = ("--from", day_name(DAY), "--to", day_name(DAY + 1))
runner = CliRunner()


@pytest.fixture
def filled(world: World, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """The case meets FIRST at eight, FIRST meets SECOND at the stall at noon; ALONE was there before."""
    monkeypatch.setenv("TRUYVET_CLICKHOUSE", settings.clickhouse_url)
    monkeypatch.setenv("TRUYVET_KAFKA", settings.kafka_address)
    monkeypatch.setenv("TRUYVET_TOPIC_PREFIX", settings.topic_prefix)
    monkeypatch.setenv("TRUYVET_PURPOSE", "c-1")
    monkeypatch.setenv("COLUMNS", "200")
    world.venues({MARKET: 60, STALL: 30}, NAME)
    world.put_below(STALL, MARKET, 30, capacity=1)
    noon = EIGHT + 4 * 60
    marks = [(CASE, MARKET, EIGHT), (FIRST, MARKET, EIGHT + 30), (FIRST, STALL, noon), (SECOND, STALL, noon)]
    world.marks([(who, venue, minute, "in") for who, venue, minute in [*marks, (ALONE, STALL, noon - 60)]])
    yield world


def trace(*words: str) -> Result:
    return runner.invoke(commands, words)


def texts(path: Path) -> str:
    """Everything that is written in a picture; it must be well-formed XML."""
    return "\n".join(ElementTree.parse(path).getroot().itertext())


@pytest.mark.engines
def test_a_chain_as_json_and_the_isolation_that_ends_it(filled: World, tmp_path: Path) -> None:
    rows = json.loads(trace("chain", CASE, *WINDOW, "--json").stdout)
    assert [(row["degree"], row["person"], row["through"], row["minutes"]) for row in rows] == [
        ("F1", FIRST, CASE, 30),
        ("F2", SECOND, FIRST, 30),
    ]
    table = trace("chain", CASE, *WINDOW)
    assert "F1: 1, F2: 1, F3: 0" in table.output
    eleven = format_time((EIGHT + 180) * MS_PER_MINUTE)
    ended = trace("chain", CASE, *WINDOW, "--json", "--isolated", f"{FIRST}={eleven}")
    assert [row["person"] for row in json.loads(ended.stdout)] == [FIRST]
    dates = tmp_path / "isolated.csv"
    dates.write_text(f"person,from\n{FIRST},{eleven}\n", "utf-8")
    assert trace("chain", CASE, *WINDOW, "--json", "--isolations", str(dates)).stdout == ended.stdout


@pytest.mark.engines
def test_a_chain_of_a_case(filled: World) -> None:
    columns = (
        "case_id, version, topic, partition, offset, status, person, window_start, window_end, min_overlap"
    )
    window = (EIGHT * MS_PER_MINUTE, (EIGHT + 60) * MS_PER_MINUTE)
    rows = [
        ("c-1", 1, "cases", 0, 1, "confirmed", int(CASE, 16), *window, 30),
        ("c-2", 1, "cases", 0, 2, "withdrawn", int(CASE, 16), *window, 30),
        ("c-3", 1, "cases", 0, 3, "confirmed", None, *window, 1),
    ]
    filled.client.execute(f"INSERT INTO cases ({columns}) VALUES", rows)
    found = json.loads(trace("chain", "--case", "c-1", "--json").stdout)
    assert [row["person"] for row in found] == [FIRST, SECOND]
    for case, told in (("c-2", "withdrawn"), ("c-3", "place-time"), ("c-9", "no case")):
        result = trace("chain", "--case", case)
        assert result.exit_code == 1
        assert told in result.output


@pytest.mark.engines
def test_a_chain_as_graph_and_tree(filled: World, tmp_path: Path) -> None:
    graph_file, picture = tmp_path / "chain.graphml", tmp_path / "chain.SVG"
    for file in (graph_file, picture):
        assert trace("chain", CASE, *WINDOW, "--out", str(file)).exit_code == 0
    graph = networkx.read_graphml(graph_file)
    assert {node: data["degree"] for node, data in graph.nodes(data=True)} == {CASE: 0, FIRST: 1, SECOND: 2}
    assert {(a, b, data["name"]) for a, b, data in graph.edges(data=True)} == {
        (CASE, FIRST, NAME),
        (FIRST, SECOND, "Sạp 1"),
    }
    shown = texts(picture)
    assert all(person in shown for person in (CASE, FIRST, SECOND))
    assert "F2: 1" in shown


@pytest.mark.engines
def test_common_venues_and_place_times(filled: World) -> None:
    found = json.loads(trace("common", CASE, FIRST, SECOND, ALONE, *WINDOW, "--json").stdout)
    assert [(row["venue"], row["persons"], row["together"], row["minutes"]) for row in found] == [
        (STALL, 3, 2, 30),
        (MARKET, 2, 2, 30),
    ]
    time = f"{day_name(DAY)}T"
    rows = json.loads(trace("places", f"{MARKET},{time}08:15,{time}11:15", "--json").stdout)
    assert [(row["person"], row["venue"], row["minutes"]) for row in rows] == [
        (CASE, MARKET, 45),
        (FIRST, MARKET, 60),
        (ALONE, STALL, 15),
    ]


@pytest.mark.engines
def test_files_of_rows_say_the_same(filled: World, tmp_path: Path) -> None:
    expected = json.loads(trace("contacts", CASE, *WINDOW, "--json").stdout)
    assert expected[0]["share"] == 0.5
    files = [tmp_path / f"contacts.{suffix}" for suffix in ("json", "parquet", "csv")]
    for file in files:
        assert trace("contacts", CASE, *WINDOW, "--out", str(file)).exit_code == 0
    assert json.loads(files[0].read_bytes()) == expected
    assert parquet.read_table(files[1]).to_pylist() == expected
    with files[2].open(encoding="utf-8", newline="") as written:
        (row,) = csv.DictReader(written)
    assert row["name"] == "'" + NAME
    empty = tmp_path / "none.parquet"
    assert trace("contacts", ALONE, *WINDOW, "--out", str(empty)).exit_code == 0
    assert parquet.read_table(empty).num_rows == 0


@pytest.mark.engines
def test_a_timeline_and_a_heat_map(filled: World, tmp_path: Path) -> None:
    line, heat = tmp_path / "person.svg", tmp_path / "venue.svg"
    assert trace("person", FIRST, *WINDOW, "--out", str(line)).exit_code == 0
    assert f"{NAME} ({MARKET})" in texts(line)
    assert trace("occupancy", STALL, *WINDOW, "--out", str(heat)).exit_code == 0
    assert day_name(DAY) in texts(heat)
    hours = json.loads(trace("occupancy", STALL, *WINDOW, "--json").stdout)
    assert [(row["peak"], row["capacity"], row["exceeded"]) for row in hours] == [(1, 1, False), (2, 1, True)]
    table = trace("occupancy", STALL, *WINDOW).stdout
    assert table.count("yes") == 1 and table.count(" no ") == 1
    assert "True" not in table and "False" not in table


def test_the_heat_map_has_a_frame_for_each_hour_over_the_capacity(tmp_path: Path) -> None:
    window = Window(EIGHT * MS_PER_MINUTE, (EIGHT + 120) * MS_PER_MINUTE)
    sizes = []
    for capacity in (5, 2):
        hours = [HourOccupancy((EIGHT + 60 * at) * MS_PER_MINUTE, 3, 3, 3, capacity) for at in range(2)]
        heat_map(tmp_path / "heat.svg", "t", hours, window)
        sizes.append((tmp_path / "heat.svg").read_text("utf-8").count("<path"))
    assert sizes[1] - sizes[0] == 2


def test_the_tree_takes_the_earliest_link_and_the_graph_takes_all(tmp_path: Path) -> None:
    place = Place(MARKET, "bad \x07 name", "trade", "hue", 60)

    def link(degree: int, source: str, person: str, first: int, minutes: int = 9) -> Link:
        return Link(degree, source, person, place, "2026-11-20", minutes, first, first + 540_000)

    links = [link(1, CASE, FIRST, 5), link(1, CASE, SECOND, 4), link(2, FIRST, ALONE, 8)]
    links += [link(2, SECOND, ALONE, 7), link(2, FIRST, ALONE, 7, 20)]
    assert tree(CASE, links) == [
        Node(CASE, 0, None, None),
        Node(SECOND, 1, 4, CASE),
        Node(FIRST, 1, 5, CASE),
        Node(ALONE, 2, 7, FIRST),
    ]
    write_graphml(tmp_path / "g.graphml", CASE, links)
    assert networkx.read_graphml(tmp_path / "g.graphml", force_multigraph=True).number_of_edges() == 5


def test_a_picture_that_nobody_could_read_is_refused(tmp_path: Path) -> None:
    nodes = [Node(f"{number:016x}", 1, number, CASE) for number in range(MOST_PERSONS)]
    nodes += [Node(f"{number:016x}", 2, number, CASE) for number in range(MOST_PERSONS, MOST_PERSONS + 7)]
    with pytest.raises(TooLargeError) as refused:
        transmission_tree(tmp_path / "t.svg", "t", [Node(CASE, 0, None, None), *nodes])
    told = str(refused.value)
    assert told.startswith("3,008 persons (F1: 3,000, F2: 7) do not fit into a picture (at most 3,000): ")
    for way in (".graphml", ".csv", "--min-overlap", "shorter window (--from, --to)", "isolation dates"):
        assert way in told
    assert not (tmp_path / "t.svg").exists()


def test_a_case_without_contacts_is_a_picture_too(tmp_path: Path) -> None:
    transmission_tree(tmp_path / "t.svg", "t", tree(CASE, []))
    assert CASE in texts(tmp_path / "t.svg")


def drawn(path: Path, persons: int) -> tuple[float, dict[str, list[tuple[float, float]]], list[str]]:
    """A case that meets somebody an hour as a picture: height (pt), dots by degree (pt), what dots say."""
    first = EIGHT * MS_PER_MINUTE
    met = [Node(f"{number:016d}", 1, first + number * 3_600_000, CASE) for number in range(persons)]
    transmission_tree(path, "t", [Node(CASE, 0, None, None), *met])
    root, space = ElementTree.parse(path).getroot(), "{http://www.w3.org/2000/svg}"
    dots = {
        degree: [
            (float(dot.attrib["x"]), float(dot.attrib["y"]))
            for dot in root.iterfind(f".//*[@id='{degree}']//{space}use")
        ]
        for degree in ("F0", "F1")
    }
    titles = [title.text or "" for title in root.iterfind(f".//{space}use/{space}title")]
    return float(root.attrib["height"].removesuffix("pt")), dots, titles


def test_a_tall_tree_names_everybody_and_has_no_blank_stripes(tmp_path: Path) -> None:
    small, few, _ = drawn(tmp_path / "small.svg", 20)
    tall, many, titles = drawn(tmp_path / "tall.svg", 400)
    shown = texts(tmp_path / "tall.svg")
    for number in (0, 200, 399):
        person, when = f"{number:016d}", format_time((EIGHT + number * 60) * MS_PER_MINUTE)
        assert f"\n{person}\n" in shown
        assert f"{person}: F1, {when}, through {CASE}" in titles
    assert len(titles) == 401
    # above the first dot and below the last one it is as in the small one
    assert many["F0"][0][1] == pytest.approx(few["F0"][0][1], abs=1)
    assert tall - many["F1"][-1][1] == pytest.approx(small - few["F1"][-1][1], abs=1)
    row = many["F1"][1][1] - many["F1"][0][1]
    assert row == pytest.approx((tall - small) / 380, abs=0.1)
    assert row > 8, "the text beside a dot does not fit"


def test_the_first_case_stands_where_it_met_the_first_and_times_are_above_and_below(tmp_path: Path) -> None:
    _, dots, titles = drawn(tmp_path / "t.svg", 5)
    assert dots["F0"][0][0] == dots["F1"][0][0] == min(x for x, _ in dots["F1"])
    assert titles[0] == f"{CASE}: F0"
    hours = [text for text in texts(tmp_path / "t.svg").split("\n") if text == "10:00"]
    assert len(hours) == 2


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("chain",), "either a person or --case"),
        (("chain", "HUE-1"), "a case is asked for with --case"),
        (("contacts", "HUE-1"), "a case is asked for with --case"),
        (("chain", CASE, "--isolated", FIRST), "is no isolation"),
        (("chain", CASE, "--isolated", f"{FIRST}=soon"), "is not a time"),
        (("chain", CASE, "--isolations", "nowhere.csv"), "nowhere.csv"),
        (("chain", CASE, "--out", "x.pdf"), ".graphml"),
        (("contacts", CASE, "--out", "x.svg"), "must end in"),
        (("common", CASE), "at least two"),
        (("common", CASE, CASE), "at least two"),
        (("places", "CDEFHJ"), "is no place-time"),
        (("places", f"{MARKET},2026-11-20,2026-11-20"), "after the start"),
        (("places", "CDEFHKC,2026-11-20,2026-11-21"), "no valid venue code"),
    ],
)
def test_a_wrong_call_says_what_is_wrong(words: tuple[str, ...], told: str) -> None:
    result = trace(*words)
    assert result.exit_code == 2
    assert told in " ".join(result.output.split())
