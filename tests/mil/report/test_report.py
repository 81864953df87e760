"""Heat maps and the report: what they show, and that the page stands alone."""

import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from huggingface_hub import ModelCard, ModelCardData
from huggingface_hub.repocard import TEMPLATE_MODELCARD_PATH
from witness import Trained

from mil.evaluation.decisions.rules import DEFAULT, parse_rule
from mil.evaluation.examples import MOST, choose, of_interest
from mil.report.cards.model_card import model_card
from mil.report.decisions.decided import decide_out_of_fold
from mil.report.options import ReportOptions
from mil.report.report import page, report
from mil.run.evidence import read_evidence
from mil.run.folder import RunFolder
from mil.targets import ClassTarget, ValueTarget
from wsi.errors import RequestError


def test_examples_are_the_surest_right_and_wrong_ones() -> None:
    def row(image_id: str, label: str, p_laa: float, tiles: int = 9) -> dict[str, str]:
        return {
            "image_id": image_id,
            "label": label,
            "n_tiles": str(tiles),
            "p_CE": f"{1 - p_laa}",
            "p_LAA": f"{p_laa}",
        }

    rows = [row("a", "CE", 0.1), row("b", "CE", 0.2), row("c", "LAA", 0.6), row("d", "LAA", 0.3), row("e", "CE", 0, 0)]
    chosen = choose(ClassTarget, rows, ["CE", "LAA"], {"a", "b", "c", "d", "e"})
    assert [image_id for image_id, _ in chosen] == ["a", "c", "d"]
    assert chosen[-1][1] == "Wrong: LAA, but predicted CE with 70%"
    assert choose(ClassTarget, rows, ["CE", "LAA"], set()) == []


def test_a_promise_that_these_patients_rule_out_is_said_not_to_be_kept(trained: Trained) -> None:
    evidence = read_evidence(RunFolder(trained.out))
    decided = decide_out_of_fold(evidence, [parse_rule(rule) for rule in DEFAULT])
    (_, own, _), said = decided.told["questions"][0]["operating"], "not reached: models of different folds need not"
    own["sensitivity"] = {"value": 0.7, "low": 0.5, "high": own["expected"] + 0.001}
    assert said not in page(evidence, decided=decided)
    own["sensitivity"]["high"] = own["expected"] - 0.001
    assert page(evidence, decided=decided).count(said) == 1


class _Links(HTMLParser):
    """Collect what a browser would fetch, and images without a description."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.images = 0
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.fetched += [found[key] or "" for key in ("src", "href", "srcset", "data") if key in found]
        if tag == "img":
            self.images += 1
            assert found.get("alt"), "an image without a description"
        if tag not in {"meta", "img", "br", "input"}:
            self.open.append(tag)
        assert tag not in {"link", "iframe", "object"}
        assert tag != "script" or "src" not in found

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_report_stands_alone_and_shows_everything(trained: Trained) -> None:
    text = (trained.out / "report.html").read_text()
    links = _Links()
    links.feed(text)
    assert links.open == []
    assert links.images == 8, "ROC, calibration twice, net benefit, errors, training and validation, one heat map"
    inside = [address for address in links.fetched if not address.startswith("data:image/")]
    sections = {f"#{own}" for own in re.findall(r'<section id="(\w+)"', text)}
    assert set(inside) - sections - {"checklists.html"} == {
        f"heatmaps/{own.name}" for own in (trained.out / "heatmaps").glob("*.png")
    }
    assert len(sections) == 14
    assert sections < set(inside)
    assert not re.search(r"url\(|@import|https?://", text)
    for part in ("AUC", "Mean colour of the tissue", "Center only", "0900_0", "Calibration error", "0.693"):
        assert part in text, part


def test_ids_from_outside_are_escaped(trained: Trained, tmp_path: Path) -> None:
    evidence = read_evidence(RunFolder(trained.out))
    evil = "<script>alert(1)</script>"
    metrics = {
        **evidence.metrics,
        "classes": [evil, "LAA"],
        "warnings": [evil],
        "failures": {evil: evil},
        "centers": [{**evidence.metrics["centers"][0], "center": evil}],
    }
    renamed = [{**row, f"p_{evil}": row["p_CE"], "label": evil} for row in evidence.slides]
    text = page(replace(evidence, metrics=metrics, slides=renamed))
    assert text.count("<script") == 1, "our own"
    assert "&lt;script&gt;" in text


def test_the_report_is_written_again_from_the_folder_alone(trained: Trained, tmp_path: Path) -> None:
    copy = tmp_path / trained.out.name
    shutil.copytree(trained.out, copy)
    pages = ("report.html", "model_card.md", "checklists.html", "checklists.csv")
    for name in pages:
        (copy / name).unlink()
    assert report(ReportOptions(run=copy)).exit_code == 0
    for name in pages:
        assert (copy / name).read_bytes() == (trained.out / name).read_bytes()
    with pytest.raises(RequestError, match="expected a run folder"):
        report(ReportOptions(run=tmp_path))


def test_the_model_card_tells_results_and_limits(trained: Trained) -> None:
    card = (trained.out / "model_card.md").read_text()
    for part in (
        "# Model card: CE vs LAA",
        "| AUC |",
        "Not a medical device",
        "equal class priors",
        "made (24 features)",
    ):
        assert part in card


def test_the_card_is_one_of_the_hubs(trained: Trained) -> None:
    """Read by the Hub's own parser: metadata, results as they were measured, its template's sections in its order."""
    text = (trained.out / "model_card.md").read_text()
    card = ModelCard(text)
    assert isinstance(card.data, ModelCardData)
    assert card.data.eval_results
    assert card.data.metrics
    assert (card.data.library_name, card.data.license, card.data.pipeline_tag) == (
        "gigamil",
        "unknown",
        "image-classification",
    )
    own = read_evidence(RunFolder(trained.out)).own
    told = {found.metric_name: found.metric_value for found in card.data.eval_results}
    assert told["AUC"] == pytest.approx(own["auc"]["value"], abs=1e-6)
    assert len(told) == len(own)
    assert {found.metric_type for found in card.data.eval_results} == set(card.data.metrics)
    wanted = re.findall(r"^#{2,3} (?!Downstream|Glossary|More Information|Model Examination)(.*?)(?: \[optional\])?$",
                        Path(TEMPLATE_MODELCARD_PATH).read_text(), re.MULTILINE)  # fmt: skip
    there = re.findall(r"^#{2,3} (.*)$", card.text, re.MULTILINE)
    assert there == wanted
    assert "**Carbon Emitted:** [More Information Needed]" in card.text


def slide_row(image_id: str, label: str, p_a: float, tiles: int = 9) -> dict[str, str]:
    return {"image_id": image_id, "label": label, "n_tiles": str(tiles), "p_A": str(p_a), "p_B": str(1 - p_a)}


def test_slides_of_interest_are_the_surest_right_and_wrong_and_the_least_sure_of_each_class() -> None:
    rows = [
        slide_row("dull", "A", 0.8),
        slide_row("right", "A", 0.95),
        slide_row("wrong", "A", 0.1),
        slide_row("unsure", "A", 0.51),
        slide_row("b_right", "B", 0.02),
        slide_row("b_unsure", "B", 0.45),
        slide_row("empty", "B", 0.0, tiles=0),
        slide_row("absent", "B", 0.0),
    ]
    there = [row["image_id"] for row in rows if row["image_id"] != "absent"] + ["new"]
    found = of_interest(ClassTarget, rows, ("A", "B"), there)
    assert found[:5] == ["right", "b_right", "wrong", "unsure", "b_unsure"]
    assert found[5:] == ["dull", "new"]
    many = [slide_row(f"{i:03d}", "AB"[i % 2], i / 99) for i in range(100)]
    assert len(of_interest(ClassTarget, many, ("A", "B"), [row["image_id"] for row in many])) == MOST == 12


def test_slides_of_interest_of_values_are_the_highest_the_lowest_and_the_middle_ones() -> None:
    rows = [{"image_id": f"{i:02d}", "n_tiles": "9", "true_value": "1", "p_value": str(i)} for i in range(31)]
    found = of_interest(ValueTarget, rows, ("value",), [row["image_id"] for row in rows])
    assert found == ["30", "00", "15", "29", "01", "14", "28", "02", "16", "27", "03", "13"]


@pytest.mark.parametrize(
    ("changes", "on_page", "on_card"),
    [
        ({}, "no patient stands on both sides. A patient with several slides gets the mean", "Split by patient, bal"),
        ({"split": "centers"}, "Whole centers were divided into 3 groups", "Split by center: all patients of one"),
        ({"split": "centers"}, "no patient and no center stands on both sides", "gets the mean of their logits"),
        ({"aggregate": "max"}, "gets, for each class, the highest of their logits", "the highest of their logits"),
        ({"aggregate": "bag"}, "The tiles of all slides of a patient form one bag", "slides of a patient form one bag"),
    ],
)
def test_sentences_follow_from_the_options(
    trained: Trained, changes: dict[str, str], on_page: str, on_card: str
) -> None:
    evidence = read_evidence(RunFolder(trained.out))
    config = evidence.config | {"recipe": evidence.config["recipe"] | changes}
    changed = replace(evidence, config=config)
    assert on_page in page(changed)
    assert on_card in model_card(changed)
    if changes:
        assert on_page not in page(evidence)
    if changes.get("aggregate"):
        assert "mean of their logits" not in page(changed) + model_card(changed)
    if changes.get("split"):
        assert "Split by patient" not in model_card(changed)
