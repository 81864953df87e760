"""What readers say: kept whatever happens, hidden where it must be, counted by hand and by another library."""

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from asking import Server, served_of, serving
from hypothesis import given, settings
from hypothesis import strategies as st

from wsi.cohort.manifest import ManifestRow, check_one_label_per_patient, load_manifest
from wsi.errors import RequestError
from wsi.store.tile_store import TileStore
from wsi.viewing.judgements import Judgement, JudgementFile, agreements, latest
from wsi.viewing.review import Review

CLASSES = ("CE", "LAA")


class Said:
    """A run that says CE of every slide, and how sure it is."""

    classes = CLASSES

    def __init__(self, names: tuple[str, ...], patients: tuple[str, ...]) -> None:
        rows = zip(names, patients, strict=True)
        self.rows = {name: ManifestRow(name, patient, label="LAA", center_id="3") for name, patient in rows}
        self.orders = {
            "uncertainty": {name: 0.1 * i for i, name in enumerate(names)},
            "error": dict.fromkeys(names, 1.0),
        }

    def predicted(self, image_id: str) -> str | None:
        return "CE"

    def of_slide(self, image_id: str, document: dict[str, Any]) -> dict[str, Any]:
        return document | {
            "prediction": {"classes": ["CE", "LAA"], "values": [0.9371, 0.0629]},
            "layers": ["attention"],
        }

    def of_cohort(self, document: dict[str, Any]) -> dict[str, Any]:
        rows = [row | {"values": row["values"] | {"p_CE": 0.9371}} for row in document["slides"]]
        return document | {"slides": rows, "said": "AUC 0.777"}


NAMES, PATIENTS = ("a_0", "a_1", "b_0", "c_0"), ("a", "a", "b", "c")


@pytest.fixture
def review(tmp_path: Path) -> Review:
    said = Said(NAMES, PATIENTS)
    return Review(dict(zip(NAMES, PATIENTS, strict=True)), JudgementFile(tmp_path / "j.jsonl"), said, blind=False)


def blind(review: Review) -> Review:
    return Review(review.patients, review.file, review.opinions, blind=True)


def judge(review: Review, reader: str, slide: str, verdict: str | None, label: str | None = None) -> Judgement:
    return review.judge(reader, {"slide": slide, "verdict": verdict, "label": label, "note": None})


def test_a_judgement_is_on_disk_and_the_last_counts(review: Review) -> None:
    assert judge(review, "A", "b_0", "disagree", "LAA").revision == 1
    second = judge(review, "A", "b_0", "agree")
    assert (second.revision, second.label, second.predicted, second.patient) == (2, "CE", "CE", "b")
    assert review.file is not None
    lines = [json.loads(line) for line in review.file.path.read_text().splitlines()]
    assert [line["verdict"] for line in lines] == ["disagree", "agree"]  # nothing is ever removed
    assert {own.verdict for own in review.own("A").values()} == {"agree"}
    again = JudgementFile(review.file.path).all()
    assert again[-1] == second


def test_a_line_that_a_crash_cut_short_costs_that_line_only(review: Review) -> None:
    judge(review, "A", "b_0", "agree")
    assert review.file is not None
    path = review.file.path
    whole = path.read_bytes()
    for cut in range(1, len(whole)):
        path.write_bytes(whole + whole[:cut])
        assert (len(review.file.all()), review.file.torn()) == (1, 1)
    path.write_bytes(whole + whole[:20])
    judge(review, "A", "c_0", "unsure")
    assert [own.slide for own in review.file.all()] == ["b_0", "c_0"]
    assert review.file.torn() == 1
    assert path.read_bytes().startswith(whole + whole[:20] + b"\n")


JUDGE = """
import sys
from pathlib import Path
from wsi.viewing.judgements import JudgementFile, Made
file, left = JudgementFile(Path(sys.argv[1])), 25
made = Made(slide="s", patient=None, reader=sys.argv[2], verdict="label", label=None, note="x" * 500, blind=False,
            predicted=None)
while left:
    try:
        file.add(made)
        left -= 1
    except OSError:  # claimed by another
        pass
"""


def test_programs_that_judge_at_once_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    programs = [subprocess.Popen([sys.executable, "-c", JUDGE, str(path), reader]) for reader in "ABC"]
    assert [program.wait(60) for program in programs] == [0, 0, 0]
    found = JudgementFile(path)
    assert (len(found.all()), found.torn()) == (75, 0)
    assert sorted(own.revision for own in found.all() if own.reader == "A") == list(range(1, 26))


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ({"slide": "zz", "verdict": "agree"}, "slide"),
        ({"slide": "../b_0", "verdict": "agree"}, "slide"),
        ({"slide": "b_0", "verdict": "maybe"}, "verdict"),
        ({"slide": "b_0", "verdict": ["agree"]}, "verdict"),
        ({"slide": "b_0", "verdict": "disagree", "label": "Other"}, "CE, LAA"),
        ({"slide": "b_0", "verdict": "disagree", "label": "CE"}, "agree"),
        ({"slide": "b_0", "verdict": "disagree", "label": 3}, "label"),
        ({"slide": "b_0", "verdict": "label"}, "label"),
        ({"slide": "b_0", "verdict": "agree", "note": "x" * 4001}, "note"),
    ],
)
def test_what_is_no_judgement_is_refused(review: Review, told: dict[str, Any], expected: str) -> None:
    with pytest.raises(RequestError, match=expected):
        review.judge("A", told)
    assert review.file is not None
    assert not review.file.path.exists()


def test_another_programs_file_is_neither_read_nor_written(review: Review) -> None:
    assert review.file is not None
    review.file.path.write_text('{"other": 1}\n')
    with pytest.raises(RequestError, match="another program"):
        judge(review, "A", "b_0", "agree")
    assert review.file.path.read_text() == '{"other": 1}\n'


def test_blind_readers_see_a_patient_when_all_its_slides_are_judged(review: Review) -> None:
    review = blind(review)
    assert review.hidden("a_0", None)
    with pytest.raises(RequestError, match="hidden"):
        judge(review, "A", "a_0", "agree")
    first = judge(review, "A", "a_0", None, "CE")
    assert (first.verdict, first.blind) == ("agree", True)  # found by comparing, without telling
    assert review.shown(first, "A")["verdict"] == "label"
    assert review.shown(first, "A")["predicted"] is None
    assert "a_1" in str(review.hidden("a_0", "A"))
    judge(review, "A", "a_1", "unsure")
    assert review.hidden("a_0", "A") is None
    assert review.hidden("a_0", "B")
    assert review.hidden("b_0", "A")
    assert review.shown(first, "A")["verdict"] == "agree"
    later = judge(review, "A", "a_0", "disagree", "LAA")
    assert not later.blind
    assert review.told("B")["judgements"] == []
    assert [key for key, _ in review.orders()] == ["uncertainty", "id"]
    with pytest.raises(RequestError, match="order"):
        review.worklist("error", "A")
    assert all(own["value"] is None for own in review.worklist(None, "A")["slides"])


def test_the_worklist_begins_with_the_highest(review: Review) -> None:
    judge(review, "A", "c_0", "agree")
    told = review.worklist("uncertainty", "A")
    assert [own["id"] for own in told["slides"]] == ["c_0", "b_0", "a_1", "a_0"]
    assert told["slides"][0] == {"id": "c_0", "value": pytest.approx(0.3), "done": True, "verdict": "agree"}
    assert [own["id"] for own in review.worklist("id", None)["slides"]] == list(NAMES)


def test_the_table_is_a_manifest_with_corrected_labels(review: Review, tmp_path: Path) -> None:
    judge(review, "A", "a_0", "agree")  # CE, where the table said LAA
    judge(review, "A", "b_0", "agree")
    judge(review, "B", "b_0", "disagree", "LAA")  # a tie: as before
    judge(review, "B", "c_0", "unsure", "CE")  # no correction
    path = tmp_path / "corrected.csv"
    path.write_text(review.manifest())
    rows = load_manifest(path)
    assert {row.image_id: row.label for row in rows} == {"a_0": "CE", "a_1": "CE", "b_0": "LAA", "c_0": "LAA"}
    assert {row.center_id for row in rows} == {"3"}
    check_one_label_per_patient(rows, "the table")
    said = {row.image_id: row.facts["correction"] for row in rows}
    assert said == {"a_0": "corrected", "a_1": "corrected", "b_0": "readers differ: unchanged", "c_0": "not judged"}
    judge(review, "B", "b_0", "agree")
    path.write_text(review.manifest())
    assert {row.label for row in load_manifest(path) if row.image_id == "b_0"} == {"CE"}


def made(reader: str, slide: str, label: str | None, verdict: str = "label", *, is_blind: bool = False) -> Judgement:
    return Judgement(
        slide=slide, patient=None, reader=reader, verdict=verdict, label=label, note=None, when="", blind=is_blind,  # type: ignore[arg-type]
        predicted=None, revision=1,
    )  # fmt: skip


def by_hand(one: list[str], other: list[str]) -> float:
    """Cohen 1960: agreement beyond what the two readers' habits would give by chance."""
    table = {(a, b): 0 for a in set(one + other) for b in set(one + other)}
    for pair in zip(one, other, strict=True):
        table[pair] += 1
    n = len(one)
    seen = sum(count for (a, b), count in table.items() if a == b) / n
    chance = sum((one.count(name) / n) * (other.count(name) / n) for name in set(one + other))
    return (seen - chance) / (1 - chance)


@settings(max_examples=30)
@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("abc")), min_size=1, max_size=40))
def test_kappa_is_cohens(pairs: list[tuple[str, str]]) -> None:
    told = [made("A", str(i), a) for i, (a, _) in enumerate(pairs)] + [
        made("B", str(i), b) for i, (_, b) in enumerate(pairs)
    ]
    (found,) = agreements(told, blind=False, labels=True)
    one, other = [a for a, _ in pairs], [b for _, b in pairs]
    if len(set(one + other)) < 2:
        assert found.kappa is None
    else:
        assert found.kappa == pytest.approx(by_hand(one, other))
    assert found.n == len(pairs)


def test_kappa_of_a_published_table() -> None:
    """Two readers, 50 cases: 20 both yes, 15 both no, 5 and 10 that differ: 0.4 (the textbook's example)."""
    cells = {("yes", "yes"): 20, ("yes", "no"): 5, ("no", "yes"): 10, ("no", "no"): 15}
    pairs = [pair for pair, count in cells.items() for _ in range(count)]
    told = [made(reader, str(i), pair[k]) for i, pair in enumerate(pairs) for k, reader in enumerate("AB")]
    assert agreements(told, blind=False, labels=True)[0].kappa == pytest.approx(0.4)


def test_unsure_and_unanswered_slides_do_not_count() -> None:
    told = [made("A", "1", "x"), made("B", "1", "x"), made("A", "2", "y"), made("B", "2", "y", "unsure")]
    told += [made("A", "3", None, "disagree"), made("B", "3", "y"), made("A", "4", "y"), made("C", "9", "x")]
    found = {own.readers: own for own in agreements(told, blind=False, labels=True)}
    assert (found["A", "B"].n, found["A", "B"].kappa) == (1, None)
    assert found["A", "C"].n == 0
    with_verdicts = [made("A", "1", None, "agree"), made("B", "1", None, "agree")]
    with_verdicts += [made("A", "2", None, "disagree"), made("B", "2", None, "disagree")]
    assert agreements(with_verdicts, blind=False, labels=False)[0].kappa == 1
    seen = [made("A", "1", "x", is_blind=True), made("A", "1", "y"), made("B", "1", "x", is_blind=True)]
    assert agreements(seen, blind=True, labels=True)[0].said.startswith("the same answer on 1 of 1")
    assert latest(seen)["1", "A"].label == "y"


@pytest.fixture(scope="module")
def stores(small_store: TileStore, second_store: TileStore) -> tuple[Path, ...]:
    return (Path(small_store.path), Path(second_store.path))


@pytest.fixture
def server(tmp_path: Path, stores: tuple[Path, ...]) -> Iterator[Server]:
    said = Said(("049194_0", "008e5c_0"), ("p", "q"))
    served = served_of(stores, (), tmp_path, said, blind=True, judgements=tmp_path / "judgements.jsonl")
    with serving(served) as server:
        yield server


def reading_as(server: Server, name: str) -> Mapping[str, str]:
    answer = server.ask("/reader", "PUT", {"name": name}, server.own)
    assert answer.json == {"reader": name}
    return server.own | {"Cookie": answer.headers["Set-Cookie"].split(";")[0]}


def test_a_blind_server_gives_nothing_away_until_a_slide_is_judged(server: Server, tmp_path: Path) -> None:
    me, other = reading_as(server, "Dr. Ä; =1"), reading_as(server, "B")
    paths = ("/cohort.js", "/slides/049194_0/slide.js", "/slides/008e5c_0/slide.js", "/judgements", "/worklist")
    telling = (b"0.93", b"attention", b'"p_CE"', b"0.777", b'"predicted": "CE"')

    def gives_away(headers: Mapping[str, str]) -> set[str]:
        return {path for path in paths if any(own in server.ask(path, headers=headers).body for own in telling)}

    assert gives_away(me) == set()
    assert server.ask("/judgements.csv", headers=me).status == 403
    assert server.ask("/stores/049194_0.zarr/labels/attention/0/c/0/0", headers=me).status == 404
    assert server.ask("/stores/049194_0.zarr/labels/tissue/zarr.json", headers=me).status == 200
    assert server.ask("/judgements", "POST", {"slide": "049194_0", "verdict": "agree"}, me).status == 400
    told = server.ask("/judgements", "POST", {"slide": "049194_0", "verdict": None, "label": "LAA"}, me)
    assert (told.status, told.json["hidden"], told.json["judgement"]["verdict"]) == (201, None, "disagree")
    assert gives_away(me) == {"/cohort.js", "/slides/049194_0/slide.js", "/judgements"}
    assert b"0.93" not in server.ask("/slides/008e5c_0/slide.js", headers=me).body
    assert gives_away(other) == set()
    assert b'"disagree"' not in server.ask("/judgements", headers=other).body
    assert server.ask("/judgements", "POST", {"slide": "008e5c_0", "verdict": "unsure"}, me).status == 201
    table = server.ask("/judgements.csv", headers=me)
    path = tmp_path / "table.csv"
    path.write_bytes(table.body)
    assert {row.image_id: row.label for row in load_manifest(path)} == {"049194_0": "LAA", "008e5c_0": "LAA"}
    assert server.ask("/judgements", headers=me).json["progress"] == {"Dr. Ä; =1": {"judged": 2, "of": 2}}


def test_who_has_no_name_cannot_judge(server: Server, tmp_path: Path) -> None:
    body = {"slide": "049194_0", "verdict": "unsure"}
    assert server.ask("/judgements", "POST", body, server.own).status == 401
    for name in ("", " ", "x" * 81, "a\x00b", 5, ["a"]):
        assert server.ask("/reader", "PUT", {"name": name}, server.own).status == 400
    for sent in (b"", b"[]", b"{", b"[" * 20_000):
        assert server.ask("/judgements", "POST", sent, server.own).status == 400
    assert not (tmp_path / "judgements.jsonl").exists()


def test_annotations_of_judged_slides_go_beside_each_other(server: Server, tmp_path: Path) -> None:
    body = b'{"type": "FeatureCollection", "features": []}'
    answer = server.ask("/slides/008e5c_0/annotations", "PUT", body, server.own | {"If-Match": '"absent"'})
    assert answer.status == 200
    assert sorted(own.name for own in tmp_path.iterdir()) == ["008e5c_0.geojson"]
    assert np.isfinite(answer.json["count"])
