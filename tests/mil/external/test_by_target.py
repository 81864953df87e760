"""Every target, slides judged by themselves, and a patient's slides as one bag, on another cohort."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from making import SEED
from witness import Witness, facts, grid, instances

from features.bags.bag import write_bag
from mil.external.evaluate import evaluate
from mil.external.options import EvaluateOptions
from mil.report.options import ReportOptions
from mil.report.report import report
from mil.train import train

CELLS: dict[str, Callable[[int], str]] = {
    "classes": lambda p: "LAA" if p % 3 == 0 else "CE",
    "labels": lambda p: ";".join(["LAA"] * (p % 3 == 0) + ["old"] * (p % 2)) or "none",
    "value": lambda p: str(p % 3 + p / 100),
    "survival": lambda p: f"{1 + p % 7 + p / 100},{int(p % 4 > 0)}",
}
COLUMNS = {"value": "value", "survival": "time,event"}


def cohort(folder: Path, target: str, first: str, patients: int) -> Witness:
    rng = np.random.default_rng(SEED + ord(first))
    lines = [f"image_id,patient_id,center_id,sex,{COLUMNS.get(target, 'label')}"]
    for p in range(patients):
        for slide in range(1 + (p % 5 == 0)):
            image_id = f"{first}{p:03d}_{slide}"
            write_bag(folder / f"{image_id}.h5", [instances(rng, 40, positive=p % 3 == 0)], grid(40), facts(image_id))
            lines.append(f"{image_id},{first}{p:03d},{p % 2},{'fm'[p // 2 % 2]},{CELLS[target](p)}")
    (folder / "table.csv").write_text("\n".join(lines) + "\n")
    return Witness(folder, folder / "table.csv")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "more"),
    [*((target, {}) for target in CELLS), ("classes", {"unit": "slide"}), ("classes", {"aggregate": "bag"})],
    ids=lambda own: str(own) if isinstance(own, str) else next(iter(own), "patient"),
)
def test_every_kind_of_run_is_judged_elsewhere(target: str, more: dict[str, str], tmp_path: Path) -> None:
    own, other = cohort(tmp_path / "own", target, "a", 36), cohort(tmp_path / "other", target, "b", 44)
    run = tmp_path / "run"
    assert train(own.options(run, folds=2, epochs=2, target=target, **more)).exit_code == 0
    out = tmp_path / "out"
    options = EvaluateOptions(run=run, items=(other.bags,), manifest=other.manifest, out=out)
    assert evaluate(options).exit_code == 0
    told, text = json.loads((out / "evaluation.json").read_text()), (out / "report.html").read_text()
    assert told["metrics"]["patients"] == (53 if more.get("unit") == "slide" else 44)
    assert not [name for name in told["metrics"]["models"]["gated_abmil"] if name.endswith("_pooled")]
    assert {own["column"] for own in told["decisions"]["subgroups"]} == {"sex"}
    sections = re.findall(r'<section id="([\w-]+)"', text)
    assert re.findall(r'<li><a href="#([\w-]+)"', text) == sections
    assert ("by-target" in sections) == (target != "classes") == ("by_target" in told)
    assert ("decisions" in sections) == (target in ("classes", "labels"))
    assert "folds pooled" not in text
    spread = told["spread"]
    assert spread["patients"] == told["metrics"]["models"]["gated_abmil"][spread["metric"]]
    assert spread["learnt_centers"] == ["0", "1"]
    assert spread["folds"]["least"] <= spread["folds"]["most"]
    assert 0 < spread["looks"]["p"] <= 1
    assert (spread["center_prior"] or {}).get("patients") == (
        told["metrics"]["patients"] if target == "classes" else None
    )
    assert "the models had learnt from 0, 1" in text
    assert "median of the fold" not in text
    assert report(ReportOptions(run=run, manifest=own.manifest)).exit_code == 0
    page = (run / "report.html").read_text()
    assert '<section id="subgroups"' in page
    assert re.findall(r'<li><a href="#([\w-]+)"', page) == re.findall(r'<section id="([\w-]+)"', page)
