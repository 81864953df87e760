"""Who took part, against a cohort counted by hand: each reason for leaving, in the file, the picture and the items."""

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from making import SEED
from witness import DIM, Witness, facts, grid, instances

from features.bags.bag import write_bag
from mil.checklists.flow_chart import flow_chart
from mil.checklists.known import Known
from mil.checklists.use import use_of_folds
from mil.data.flow import DAMAGED, NO_BAG, NO_TILES, Flow, LeftOut
from mil.external.evaluate import evaluate
from mil.external.options import EvaluateOptions
from mil.run.evidence import read_evidence
from mil.run.folder import RunFolder
from mil.run.record import read_record
from mil.train import train

NO_LABEL = "nothing stands under label"


@pytest.fixture(scope="module")
def told_by_hand(tmp_path_factory: pytest.TempPathFactory, write_cohort: Callable[..., Witness]) -> Path:
    """12 patients with 15 slides, and by hand: whom it costs what.

    u1 has no label on two slides; 0000, who has other slides, none on one. n1 has no bag. d1's bag is cut; so is one of
    0005's, who has others. e1 has no tile.
    """
    folder = tmp_path_factory.mktemp("by_hand")
    witness = write_cohort(folder, n_patients=12)
    write_bag(folder / "e1_0.h5", [np.empty((0, DIM), np.float16)], grid(0), facts("e1_0"))
    rng = np.random.default_rng(SEED)
    for name in ("d1_0", "0005_7"):
        write_bag(folder / f"{name}.h5", [instances(rng, 40, positive=False)], grid(40), facts(name))
        (folder / f"{name}.h5").write_bytes((folder / f"{name}.h5").read_bytes()[:900])
    more = [
        "u1_0,u1,,0",
        "u1_1,u1,,0",
        "0000_9,0000,,0",
        "n1_0,n1,LAA,0",
        "d1_0,d1,CE,1",
        "0005_7,0005,CE,1",
        "e1_0,e1,CE,0",
    ]
    with witness.manifest.open("a") as file:
        file.write("\n".join(more) + "\n")
    train(witness.options(folder / "run", folds=2, epochs=2, hidden=8, attention=8, baselines=()))
    return folder


def test_each_reason_is_counted_as_by_hand(told_by_hand: Path) -> None:
    flow = read_record(told_by_hand / "run").flow
    assert flow == Flow(
        slides=15 + 7,
        patients=12 + 4,
        left_out=(LeftOut(NO_LABEL, 3, 1), LeftOut(NO_BAG, 1, 1)),
        unjudged=(LeftOut(DAMAGED, 2, 1), LeftOut(NO_TILES, 1, 1)),
    )
    assert (flow.patients_left, flow.slides_left) == (14, 18)
    metrics = json.loads((told_by_hand / "run" / "metrics.json").read_text())
    assert (metrics["patients"], metrics["slides"]) == (14, 18)
    assert Flow.from_dict(json.loads(json.dumps(flow.as_dict()))) == flow


def test_the_picture_shows_them(told_by_hand: Path) -> None:
    page = (told_by_hand / "run" / "report.html").read_text()
    (svg,) = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    shown = " ".join(" ".join(re.findall(r"<text[^>]*>([^<]*)</text>", svg)).split())
    assert shown == (
        "In the table 16 patients, 22 slides "
        "Left out: 2 patients, 4 slides "
        "3 slides: nothing stands under label (1 patient with no other) "
        "1 slide: no bag was found of the slide (1 patient with no other) "
        "In the cohort 14 patients, 18 slides "
        "Nothing to look at "
        "2 slides: the bag is damaged or cannot be read (1 patient with no other) "
        "1 slide: no tile of the slide shows tissue (1 patient with no other) "
        "patients without another slide are told equal probabilities, and count "
        "Counted in the results: 14 patients CE 10, LAA 4"
    )


def test_no_text_leaves_its_box_and_no_box_the_picture(told_by_hand: Path) -> None:
    evidence = read_evidence(RunFolder(told_by_hand / "run"))
    record = read_record(told_by_hand / "run")
    chart = flow_chart(Known(evidence, record, record.flow))
    below = 0
    for box in chart.boxes:
        assert box.y > below
        below = box.y + box.height
        assert box.baseline(len(box.lines)) < below
        assert max(map(len, (box.head, *box.lines))) * 7.6 < box.width  # of 14 px in a wide font
    assert below < chart.height


def test_folds_use_each_patient_once(told_by_hand: Path) -> None:
    run = told_by_hand / "run"
    with (run / "splits.csv").open(newline="") as file:
        fold_of = {row["patient_id"]: int(row["fold"]) for row in csv.DictReader(file)}
    for own in use_of_folds(read_evidence(RunFolder(run))):
        with (run / f"fold{own.fold}" / "seed0" / "scores.csv").open(newline="") as file:
            inner = {row["image_id"].partition("_")[0] for row in csv.DictReader(file) if row["part"] == "val"}
        assert own.test.patients == sum(fold == own.fold for fold in fold_of.values())
        assert own.inner.patients == len(inner)
        blind = sum(fold_of[patient] != own.fold for patient in ("d1", "e1"))
        assert own.train.patients == 14 - own.test.patients - own.inner.patients - blind
        assert sum(own.train.carried.values()) == own.train.patients


def test_another_cohort_tells_whom_the_run_knew(told_by_hand: Path, tmp_path: Path) -> None:
    rng, lines = np.random.default_rng(SEED + 1), ["image_id,patient_id,label"]
    for patient in range(8):
        label, name = ("LAA", "CE")[patient % 2], f"x{patient}_0"
        write_bag(
            tmp_path / "bags" / f"{name}.h5", [instances(rng, 30, positive=label == "LAA")], grid(30), facts(name)
        )
        lines.append(f"{name},x{patient},{label}")
    write_bag(tmp_path / "bags" / "0003_8.h5", [instances(rng, 30, positive=True)], grid(30), facts("0003_8"))
    with h5py.File(told_by_hand / "0004_0.h5") as file:
        rows = np.asarray(file["features"])
    write_bag(tmp_path / "bags" / "y1_0.h5", [rows], grid(len(rows)), facts("y1_0"))
    (tmp_path / "new.csv").write_text(
        "\n".join([*lines, "0003_8,0003,LAA", "y1_0,y1,CE", "z1_0,z1,CE", "z2_0,z2,"]) + "\n"
    )
    out = tmp_path / "out"
    evaluate(
        EvaluateOptions(
            run=told_by_hand / "run",
            items=(tmp_path / "bags",),
            manifest=tmp_path / "new.csv",
            out=out,
            overlap="leave-out",
        )
    )
    flow = Flow.from_dict(json.loads((out / "evaluation.json").read_text())["flow"])
    known = "the run was trained on the patient, known by "
    assert (flow.patients, flow.patients_left) == (12, 8)
    assert set(flow.left_out) == {
        LeftOut(NO_LABEL, 1, 1),
        LeftOut(NO_BAG, 1, 1),
        LeftOut(f"{known}the patient's id", 1, 1),
        LeftOut(f"{known}the same features", 1, 1),
    }
    assert "known by the same features" in (out / "report.html").read_text().replace("\n", " ")
