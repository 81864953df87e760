"""Items of TRIPOD+AI and CLAIM: all are there, an answer stands somewhere, and what only a person knows is open."""

import csv
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from witness import Trained

from mil.checklists.items import FILLED, NOT_HERE, OPEN, PARTLY, filled, items, topic
from mil.checklists.known import Elsewhere, Known
from mil.checklists.of_model import compute_lines
from mil.report.cards.model_card import model_card
from mil.report.report import page
from mil.run.evidence import CHOSEN, Evidence, read_evidence
from mil.run.folder import RunFolder
from mil.run.record import Record, Session, read_record

LETTERS = {3: 3, 5: 2, 6: 3, 8: 3, 9: 3, 12: 7, 18: 6, 20: 3, 23: 2, 27: 3}
"""How many parts an item of TRIPOD+AI has, where it has several: Collins et al. 2024, table 2; 52 in all."""


@pytest.fixture(scope="module")
def evidence(trained: Trained) -> Evidence:
    return read_evidence(RunFolder(trained.out))


@pytest.fixture(scope="module")
def known(trained: Trained, evidence: Evidence) -> Known:
    record = read_record(trained.out)
    return Known(evidence, record, record.flow)


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "checklists.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_every_item_is_there_once() -> None:
    wanted = [f"{n}{chr(97 + i) if n in LETTERS else ''}" for n in range(1, 28) for i in range(LETTERS.get(n, 1))]
    assert [own.number for own in items("tripod_ai")] == wanted
    assert len(wanted) == 52
    assert [own.number for own in items("claim_2024")] == [str(n) for n in range(1, 45)]


def test_every_topic_is_a_function_and_every_item_says_something() -> None:
    for own in (*items("tripod_ai"), *items("claim_2024")):
        assert own.says
        assert own.topics or own.asks, own
        assert own.applies in ("both", "development", "evaluation")
        assert all(callable(topic(name)) for name in own.topics)


def test_the_table_leaves_open_what_the_run_cannot_know(trained: Trained) -> None:
    found = {(row["checklist"], row["item"]): row for row in rows(trained.out)}
    assert len(found) == 52 + 44
    for key in (
        ("TRIPOD+AI", "17"),
        ("TRIPOD+AI", "5b"),
        ("TRIPOD+AI", "18a"),
        ("CLAIM 2024", "5"),
        ("CLAIM 2024", "44"),
    ):
        assert (found[key]["status"], found[key]["told by the run"]) == (OPEN, "")
        assert found[key]["for a person"]
    for row in found.values():
        told = row["status"] in (FILLED, PARTLY)
        assert bool(row["told by the run"]) == bool(row["where it stands"]) == told
        assert bool(row["for a person"]) == (row["status"] != FILLED)
    assert "AUC" in found["CLAIM 2024", "37"]["told by the run"]
    assert found["TRIPOD+AI", "12f"]["status"] == NOT_HERE
    assert found["TRIPOD+AI", "23a"]["status"] == PARTLY, "no groups were judged"
    assert found["CLAIM 2024", "33"]["told by the run"].startswith("None by this run")


def test_where_it_stands_is_there(trained: Trained) -> None:
    """Every file that an answer names exists in the run folder."""
    for row in rows(trained.out):
        for name in re.findall(r"[\w*/]+\.(?:json|toml|csv|html|md|safetensors)", row["where it stands"]):
            assert list(trained.out.glob(name)), (row["item"], name)


def test_numbers_are_those_of_the_metrics(known: Known) -> None:
    own = known.evidence.own["auc"]
    (entry,) = (own for own in filled("claim_2024", known) if own.item.number == "37")
    assert f"AUC {own['value']:.3f} ({own['low']:.3f} to {own['high']:.3f})" in entry.answers[0].text


def told(known: Known, checklist: str, item: str) -> str:
    (entry,) = (own for own in filled(checklist, known) if own.item.number == item)
    return " ".join(answer.text for answer in entry.answers)


def test_uncertainties_that_the_run_tells_apart_are_answers(trained: Trained, known: Known) -> None:
    spread = json.loads((trained.out / "spread.json").read_text())
    by_row = {(row["checklist"], row["item"]): row for row in rows(trained.out)}
    own = by_row["CLAIM 2024", "29"]
    assert "above chance: p below 0.002" in own["told by the run"]
    assert "looks (Bonferroni)" not in own["told by the run"]
    assert "spread.json: looks" in own["where it stands"]
    pooled = spread["centers"]["pooled"]
    within = f"Pairs of one center alone: AUC {pooled['value']:.2f} ({pooled['low']:.2f} to {pooled['high']:.2f})."
    for item in ("12d", "23b"):
        assert within in by_row["TRIPOD+AI", item]["told by the run"]
    assert "No other run of these patients and this target" in by_row["TRIPOD+AI", "12c"]["told by the run"]
    assert "Folds hold CE" in by_row["CLAIM 2024", "19"]["told by the run"]
    more = {
        **spread,
        "folds": {"value": 0.8, "low": 0.6, "high": 0.95, "folds": 3},
        "repeats": {"repeats": 5, "least": 0.71, "most": 0.84, "over_folds": None},
        "looks": {**spread["looks"], "runs": 3, "p": 0.01, "corrected_p": 0.03},
        "centers": {
            **spread["centers"],
            "over_centers": {"value": 0.8, "low": 0.7, "high": 0.9, "next_low": 0.55, "next_high": 0.97},
        },
    }
    other = replace(known, spread=more)
    assert "5 repeats with other divisions and seeds: AUC from 0.710 to 0.840." in told(other, "claim_2024", "29")
    assert "Other training sets: AUC 0.800 (0.600 to 0.950) over the 3 folds" in told(other, "claim_2024", "29")
    assert "p 0.010, one-sided" in told(other, "claim_2024", "29")
    assert "0.030 corrected for 3 looks (Bonferroni)" in told(other, "claim_2024", "29")
    assert "5 repeats with other divisions and seeds" in told(other, "claim_2024", "30")
    assert "one more center may lie anywhere from 0.55 to 0.97 (prediction interval)" in told(other, "tripod_ai", "23b")
    assert "3 runs of these patients and this target stand in the same folder" in told(other, "tripod_ai", "12c")
    bare = replace(known, spread={})  # an earlier version measured nothing
    assert "--repeats tells it" in told(bare, "claim_2024", "29")


def test_a_head_chosen_on_inner_folds_is_told_as_chosen(trained: Trained, known: Known, tmp_path: Path) -> None:
    shutil.copytree(trained.out, tmp_path / "run")
    heads = ["gated_abmil", "mean_pool"]
    choices = [{"fold": fold, "head": heads[fold % 2]} for fold in range(3)]
    told_of = {"inner_folds": 4, "candidates": heads, "choices": choices, "for_new_patients": "mean_pool"}
    (tmp_path / "run" / "nested.json").write_text(json.dumps(told_of))
    config = {**known.evidence.config, "recipe": {**known.recipe, "nested": 4}}
    evidence = with_first(known.evidence, CHOSEN, {"value": 0.77, "low": 0.66, "high": 0.88})
    other = replace(known, evidence=replace(evidence, run=RunFolder(tmp_path / "run"), config=config))
    for text in (told(other, "claim_2024", "26"), told(other, "tripod_ai", "12c")):
        assert "the loss on 4 inner folds of its training patients alone (fold 0: Gated" in text
        assert "Mean pooling of the tile features for new patients" in text
    assert "Head chosen by inner folds: AUC 0.770 (0.660 to 0.880)." in told(other, "claim_2024", "37")
    assert "inner folds" not in told(known, "claim_2024", "26")


def test_whole_centers_are_the_level_of_either_split(known: Known) -> None:
    for split, level in (("patients", "The patient"), ("centers", "The center"), ("preserved-site", "The center")):
        config = {**known.evidence.config, "recipe": {**known.recipe, "split": split}}
        other = replace(known, evidence=replace(known.evidence, config=config))
        assert told(other, "claim_2024", "20").startswith(level)


def test_bags_of_other_tools_leave_their_making_open(known: Known) -> None:
    """The witness's bags tell nothing of tiling: nothing is said of it."""
    status = {own.item.number: own.status for own in filled("claim_2024", known)}
    assert status["10"] == OPEN
    assert {own.item.number: own.status for own in filled("tripod_ai", known)}["9c"] == OPEN


def test_a_run_that_kept_nothing_says_nothing_of_it(known: Known) -> None:
    old = Known(known.evidence, Record(), None)
    found = {own.item.number: own for own in filled("tripod_ai", old)}
    assert found["20a"].status == OPEN
    assert "record.json" not in " ".join(answer.where for own in found.values() for answer in own.answers)
    assert not [own for own in filled("claim_2024", old)[24].answers if "kWh" in own.text]


def test_elsewhere_other_items_are_asked_for(known: Known) -> None:
    elsewhere = Elsewhere({}, [], (), known.evidence.own)
    other = replace(known, evidence=replace(known.evidence, elsewhere=True), elsewhere=elsewhere)
    found = {own.item.number: own for own in filled("tripod_ai", other)}
    assert {n for n, own in found.items() if own.status == NOT_HERE} == {
        "9a",
        "12a",
        "12b",
        "12c",
        "15",
        "22",
        "27a",
        "27b",
    }
    assert found["12f"].answers[0].text.startswith("The model was not updated")
    assert "another cohort" in filled("claim_2024", other)[32].answers[0].text


def test_energy_is_said_with_what_it_rests_on() -> None:
    half = Session(3, 7200.0, 3600.0, 12 * 3600.0, "processors taken at 12 W for each busy core", whole=False)
    record = Record({"processor": "X", "cores": 2, "memory_gib": 8}, None, "drawn", (half, half))
    told = " ".join(compute_lines(record, 6))
    assert "0.024 kWh (processors taken at 12 W for each busy core)" in told, "two hours of a core at 12 W"
    assert "6 models in 4.0 h" in told
    assert "left no record" not in told
    assert "1 of 7 models" in " ".join(compute_lines(record, 7))
    unknown = replace(record, sessions=(half, replace(half, joules=None, how="not known: nobody says")))
    assert unknown.kwh is None
    assert "Energy: not known" in " ".join(compute_lines(unknown, 6))


def test_no_better_than_chance_is_the_first_sentence_and_a_telling_center_stands_on_top(
    trained: Trained, evidence: Evidence
) -> None:
    told = (trained.out / "report.html").read_text()
    assert "not shown to be better" not in told
    assert "center may be what is told" not in told
    hopeless = with_first(evidence, evidence.head, {"value": 0.53, "low": 0.41, "high": 0.65})
    spread = json.loads((trained.out / "spread.json").read_text())
    gone = {**spread, "centers": {**spread["centers"], "pooled": {"value": 0.55, "low": 0.4, "high": 0.7}}}
    text = page(with_first(hopeless, "center_only", {"value": 0.91, "low": 0.8, "high": 0.97}), spread=gone)
    (headline,) = re.findall(r'<p class="headline">(.*?)</p>', text, re.DOTALL)
    plain = re.sub(r"<[^>]+>", "", headline)
    assert plain.startswith("The model is not shown to be better than chance, and the center may be what is told. On ")
    assert "AUC of 0.53" in plain
    assert "models been trained anew" not in page(hopeless, spread={**gone, "folds": None})
    anew = {**gone, "folds": {**spread["folds"], "low": 0.31, "high": 0.76}}
    between = (
        "(95&nbsp;% interval 0.41 to 0.65 with other patients and these models; 0.31 to 0.76 had models been trained"
    )
    assert between in page(hopeless, spread=anew)
    narrow = {**gone, "folds": {**spread["folds"], "low": 0.42, "high": 0.6}}
    assert "models been trained anew" not in page(hopeless, spread=narrow)
    doubtful = {**spread, "looks": {**spread["looks"], "p": 0.04}}
    lucky = page(evidence, spread=doubtful)
    assert "not shown to be better than chance" in lucky
    assert "that the answers fit by luck has p = 0.040" in lucky
    assert "not shown to be better than chance" in model_card(evidence, doubtful)
    assert "not shown to be better" not in (trained.out / "model_card.md").read_text()
    top, _, rest = text.partition("<nav")
    confounded = with_first(evidence, "center_only", {"value": 0.85, "low": 0.7, "high": 0.97})
    assert confounded.verdict(spread) == "", "within centers as much is told"
    assert confounded.verdict(gone) == confounded.verdict({}) == "The center may be what is told."
    assert '<span class="bad">The center may be what is told.</span> On ' in page(confounded, spread=gone)
    assert "**Mind the center:**" in model_card(confounded, gone)
    slight = with_first(evidence, "center_only", {"value": 0.6, "low": 0.53, "high": 0.7})
    assert slight.verdict(gone) == "", "less than half of what the model wins over chance"
    assert "The center alone predicts the class (AUC 0.60)" in page(slight, spread=spread)
    assert "The center alone predicts the class (AUC 0.91)" in top
    assert "center alone predicts" not in rest.partition("<main>")[0], "once is enough"


def with_first(evidence: Evidence, model: str, found: dict[str, float]) -> Evidence:
    models = evidence.metrics["models"]
    changed = {**models, model: {**models.get(model, models[evidence.head]), evidence.truth.shown[0]: found}}
    return replace(evidence, metrics={**evidence.metrics, "models": changed})
