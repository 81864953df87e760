"""Text from outside in what a run writes: names that a spreadsheet, a browser or Markdown would take up."""

import csv
from collections.abc import Callable

import pytest
from witness import Witness

from mil.data.splits import read_column, read_splits
from mil.run.evidence import read_evidence, read_history
from mil.run.folder import RunFolder
from mil.run.scores import read_scores
from mil.train import train
from wsi.errors import RequestError

FORMULA, MARKUP = '=HYPERLINK("http://x")', "<b onclick=a>[x](http://y)"


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory, write_cohort: Callable[..., Witness]) -> RunFolder:
    """A run of two classes with such names, with patients whose ids begin as formulas do."""
    folder = tmp_path_factory.mktemp("foreign")
    witness = write_cohort(folder, n_patients=12)
    header, *lines = (line.split(",") for line in witness.manifest.read_text().splitlines())
    label_of = {"LAA": FORMULA, "CE": MARKUP}
    rows = [[image_id, f"@{patient}", label_of[label], center] for image_id, patient, label, center in lines]
    with witness.manifest.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    train(witness.options(folder / "run", folds=2, epochs=1, baselines=(), classes=(FORMULA, MARKUP)))
    return RunFolder(folder / "run")


def test_no_cell_of_a_run_is_a_formula_and_each_reads_back(foreign: RunFolder) -> None:
    tables = sorted(foreign.path.rglob("*.csv"))
    assert {"oof.csv", "splits.csv", "scores.csv", "history.csv"} <= {path.name for path in tables}
    for path in tables:
        with path.open(newline="") as file:
            cells = [cell for row in csv.reader(file) for cell in row]
        assert not [cell for cell in cells if cell[:1] in ("=", "+", "@") or (cell[:1] == "-" and not _number(cell))]
    table = foreign.path / "splits.csv"
    assert set(read_column(table, "label").values()) == {FORMULA, MARKUP}
    evidence = read_evidence(foreign)
    assert all(row["patient_id"].startswith("@") for row in evidence.patients)
    assert set(read_scores(foreign.model(foreign.head, 0, 0) / "scores.csv").image_ids) <= set(read_splits(table))


def _number(cell: str) -> bool:
    try:
        return bool(float(cell) or True)
    except ValueError:
        return False


def test_class_names_are_text_in_the_card_and_in_the_report(foreign: RunFolder) -> None:
    card, page = (foreign.path / name for name in ("model_card.md", "report.html"))
    assert "<b onclick" not in card.read_text().replace("\\<b", "")
    assert "](http" not in card.read_text()
    assert "<b onclick" not in page.read_text("utf-8")
    assert "&lt;b onclick=a&gt;" in page.read_text("utf-8")


@pytest.mark.parametrize(
    ("name", "spoilt"),
    [
        ("oof.csv", lambda text: "a,b\n1,2\n"),
        ("oof.csv", lambda text: text.splitlines()[0] + "\n"),
        ("oof.csv", lambda text: "\n".join(text.splitlines()[:-1]) + "\n"),
        ("baselines/oof.csv", lambda text: text.replace("0.", "nan", 1)),
        ("splits.csv", lambda text: "image_id,fold\na,0\n"),
        ("fold0/seed0/history.csv", lambda text: text.replace("epoch", "step")),
        ("fold0/seed0/scores.csv", lambda text: text.replace(",val,", ",x,", 1)),
        ("fold0/seed0/scores.csv", lambda text: text[: len(text) // 2]),
    ],
)
def test_a_spoilt_table_of_a_run_is_named_in_one_line(
    foreign: RunFolder, name: str, spoilt: Callable[[str], str]
) -> None:
    path = foreign.path / name
    whole = path.read_text()
    path.write_text(spoilt(whole))
    try:
        with pytest.raises(RequestError, match=str(path)) as caught:
            _read(foreign)
    finally:
        path.write_text(whole)
    assert "\n" not in str(caught.value)


def _read(run: RunFolder) -> None:
    model = run.model(run.head, 0, 0)
    read_evidence(run)
    read_splits(run.path / "splits.csv")
    read_scores(model / "scores.csv", None, 2)
    read_history(model / "history.csv")
