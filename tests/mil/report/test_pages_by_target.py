"""Every target's report: the same sections, tables and links; searched, sorted and printed in a browser."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from browsing import Visits
from making import SEED
from witness import Trained, Witness, facts, instances

from features.bags.bag import write_bag
from mil.report.options import ReportOptions
from mil.report.report import report
from mil.run.folder import RunFolder
from mil.train import train
from wsi.errors import RequestError
from wsi.pages import natural
from wsi.store.tile_store import TileStore

SECTIONS = ["good", "spread", "flow", "cases", "looked", "simpler", "curves", "breakdown", "groups", "training", "made"]
PATIENTS = 20


@pytest.fixture(scope="module")
def cohort(
    tmp_path_factory: pytest.TempPathFactory, write_cohort: Callable[..., Witness], small_store: TileStore
) -> Witness:
    """Twenty patients of centers 2 and 10, one of whose slides has a store."""
    witness = write_cohort(tmp_path_factory.mktemp("cohort"), n_patients=PATIENTS)
    rows = instances(np.random.default_rng(SEED), small_store.n_tiles, positive=True)
    write_bag(
        witness.bags / f"{small_store.image_id}.h5", [rows], small_store.coords_l0_yx(), facts(small_store.image_id)
    )
    return witness


def run_of(cohort: Witness, store: TileStore, folder: Path, target: str) -> Path:
    cells: dict[str, Callable[[int], str]] = {
        "classes": lambda p: "LAA" if p % 3 == 0 else "CE",
        "labels": lambda p: ";".join(["LAA"] * (p % 3 == 0) + ["old"] * (p % 2)) or "none",
        "value": lambda p: str(p % 3 + p / 100),
        "survival": lambda p: f"{1 + p % 7 + p / 100},{int(p % 4 > 0)}",
    }
    column = {"value": "value", "survival": "time,event"}.get(target, "label")
    lines = [f"image_id,patient_id,center_id,{column}"]
    for p in range(PATIENTS):
        slides = [f"{p:04d}_{slide}" for slide in range(1 + (p % 5 == 0))] + [store.image_id] * (p == 0)
        lines += [f"{slide},{p:04d},{(2, 10)[p % 2]},{cells[target](p)}" for slide in slides]
    manifest = folder / "manifest.csv"
    manifest.write_text("\n".join(lines) + "\n")
    own, run = Witness(cohort.bags, manifest), folder / "run"
    settings = {"folds": 2, "epochs": 2, "stores": (store.path,), "target": target}
    assert train(own.options(run, **settings)).exit_code == 0
    return run


@pytest.fixture(scope="module", params=["classes", "labels", "value", "survival"])
def run(
    request: pytest.FixtureRequest, cohort: Witness, small_store: TileStore, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    return run_of(cohort, small_store, tmp_path_factory.mktemp(request.param), request.param)


def test_all_targets_have_one_report(run: Path, small_store: TileStore, visit: Visits) -> None:
    text = (run / "report.html").read_text()
    probabilities = {"classes": ["decisions", "refusing"], "labels": ["decisions", "refusing"]}
    kind = RunFolder(run).predicts.kind
    own = ["by-target"] * (kind != "classes") + probabilities.get(kind, [])
    doubted = ["suspects"] * (kind == "classes")
    found = re.findall(r'<section id="([\w-]+)"', text)
    assert found == [*SECTIONS[:4], *doubted, *SECTIONS[4:7], *own, *SECTIONS[7:]]
    for part in (
        "Mean colour of the tissue",
        "Center only",
        "Constant,",
        "logistic regression tells the center",
        "To know before",
    ):
        assert part in text, part
    assert f'href="heatmaps/{small_store.image_id}.png"' in text
    assert f"Slide {small_store.image_id}: overview" in text
    groups = re.search(r'<section id="groups".*?</section>', text, re.DOTALL)
    assert groups is not None
    assert re.findall(r'<th scope="row">(\w+)', groups[0]) == ["0", "1", "2", "10"]
    window = visit(688)  # A4 less its margins
    window.page.emulate_media(media="print")
    window.open((run / "report.html").as_uri())
    assert window.page.evaluate("document.documentElement.scrollWidth") <= 688
    boxes = "[...document.querySelectorAll('.scroll')]"
    cut = ".filter((own) => own.scrollWidth > own.clientWidth || own.scrollHeight > own.clientHeight).length"
    assert window.page.evaluate(boxes + cut) == 0, "what scrolls is cut on paper"
    assert window.page.evaluate("[...document.querySelectorAll('nav, .tools')].every((own) => !own.offsetHeight)")


@pytest.mark.parametrize(("width", "dark"), [(1400, True), (390, False)])
def test_pages_are_readable_for_everybody(trained: Trained, visit: Visits, width: int, dark: bool) -> None:
    window = visit(width, dark=dark).open((trained.out / "report.html").as_uri())
    assert window.page.evaluate("document.documentElement.scrollWidth") <= width
    assert window.barriers() == []


def test_cases_are_searched_filtered_and_sorted(trained: Trained, visit: Visits) -> None:
    page = visit().open((trained.out / "report.html").as_uri()).page
    shown = "[...document.querySelectorAll('#cases-table tbody tr')].filter((row) => !row.hidden)"
    ids = f"{shown}.map((row) => row.cells[0].textContent)"
    errors = f"{shown}.map((row) => row.cells[5].dataset.value)"
    first = page.evaluate(ids)
    numbers = [float(own) for own in page.evaluate(errors) if own]
    assert numbers == sorted(numbers, reverse=True)
    assert page.evaluate(errors)[-1] == "", "who was not judged stands last"

    page.fill("input[type=search]", "0010_1 la")
    assert page.evaluate(ids) == []
    page.fill("input[type=search]", "0010_1 ce")
    assert page.evaluate(ids) == ["0010"]
    assert page.text_content("output") == f"1 of {len(first)}"
    page.fill("input[type=search]", "")

    page.select_option("[data-row=error]", "wrong")
    assert page.evaluate(f"{shown}.every((row) => row.cells[4].textContent === 'wrong')")
    assert len(page.evaluate(ids)) == page.evaluate("document.querySelectorAll('#cases-table .bad').length")
    page.select_option("[data-row=error]", "")
    page.select_option("[data-row=center]", "1")
    assert set(page.evaluate(f"{shown}.map((row) => row.cells[1].textContent)")) == {"1"}
    page.click("[type=reset]")
    page.wait_for_function(f"{shown}.length === {len(first)}")

    page.click("th:has-text('Error') [role=button]")
    page.click("th:has-text('Error') [role=button]")
    rising = page.evaluate(errors)
    assert [float(own) for own in rising if own] == sorted(numbers)
    assert rising[-1] == "", "not known stands last, either way"
    assert page.get_attribute("th:has-text('Error')", "aria-sort") == "ascending"
    page.focus("th:has-text('Patient') [role=button]")
    page.keyboard.press("Enter")
    assert page.evaluate(ids) == sorted(first, key=natural)
    page.click("[type=reset]")
    page.wait_for_function(f"!({ids} < {first})")
    assert page.evaluate(ids) == first


def test_slides_are_linked_to_the_pages_that_are_there(trained: Trained, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained.out, run)
    pages, made = tmp_path / "my pages", RunFolder(run).config["recipe_hash"]
    with pytest.raises(RequestError, match=r"expected slides/<image_id>/index\.html"):
        report(ReportOptions(run=run, pages=pages))
    (pages / "slides" / "0010_1").mkdir(parents=True)
    (pages / "slides" / "0010_1" / "index.html").write_text("page")
    before = (run / "report.html").read_bytes()
    report(ReportOptions(run=run, pages=pages))
    linked = re.findall(r'<a href="([^"#]+index.html)">([^<]+)</a>', (run / "report.html").read_text())
    ((address, name),) = linked
    assert name == "0010_1"
    assert " " not in address
    other = '{"recipe": {"said": {"run": "of another recipe"}}}'
    (pages / "slides" / "0010_1" / "page.json").write_text(other)
    with pytest.raises(RequestError, match="of this run"):
        report(ReportOptions(run=run, pages=pages))
    (pages / "slides" / "0010_1" / "page.json").write_text(other.replace("of another recipe", made))
    (pages / "index.html").write_text("all")
    report(ReportOptions(run=run, pages=pages))
    assert re.search(r'<a href="[^"#]+/my%20pages/index\.html">', (run / "report.html").read_text())
    assert (run / address.replace("%20", " ")).resolve() == (pages / "slides" / "0010_1" / "index.html").resolve()
    report(ReportOptions(run=run))
    assert (run / "report.html").read_bytes() == before


def test_the_report_is_read_without_scripts(trained: Trained, visit: Visits) -> None:
    page = visit(java_script_enabled=False).open((trained.out / "report.html").as_uri()).page
    table = (trained.out / "oof.csv").read_text()
    assert page.locator("#cases-table tbody tr:visible").count() == table.count("\npatient,")
    assert not page.locator("form.tools").is_visible()
