"""The models of a run for other programs: the same numbers, and a price that was measured."""

import csv
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from witness import DIM, Trained, Witness, grid, instances
from witness import facts as facts_of_bag

from features.bags.bag import read_features, write_bag
from mil.heads import HEADS, HeadSpec
from mil.inference.options import PredictOptions, RunExportOptions
from mil.inference.portable.export import export_run
from mil.inference.portable.graph import largest_difference, onnx_predict, save_exported, save_onnx, torch_predict
from mil.inference.portable.leaner import prune_smallest
from mil.inference.portable.one_graph import OneRun, save_card, save_run
from mil.inference.predict import predict
from mil.models.ensemble import load_ensemble
from mil.models.model import BagModel, load_model
from mil.run.folder import RunFolder
from mil.run.scores import read_scores
from mil.targets.metrics import centred
from mil.train import train
from wsi.errors import RecipeMismatchError, RequestError
from wsi.progress.outcome import Status

NOT_AS_ONE_GRAPH = {"transmil", "dtfd"}
"""Heads whose steps depend on how many instances a bag has."""


def model(head: str = "gated_abmil") -> BagModel:
    torch.manual_seed(0)
    return BagModel(HeadSpec(name=head, dim=6, n_classes=2, hidden=8, attention=4)).eval()


@pytest.mark.parametrize("head", sorted(set(HEADS) - NOT_AS_ONE_GRAPH))
def test_an_exported_graph_gives_the_models_logits_for_bags_of_any_size(head: str, tmp_path: Path) -> None:
    own = model(head)
    assert largest_difference(torch_predict(own), save_exported(own, tmp_path / "m.pt2"), 6) <= 1e-5


@pytest.mark.parametrize("head", ["gated_abmil", "mean_pool", "clam_mb"])
def test_onnx_gives_the_models_logits_for_bags_of_any_size(head: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    own = model(head)
    assert largest_difference(torch_predict(own), save_onnx(own, tmp_path / "m.onnx"), 6) <= 1e-5
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]


def test_the_check_sees_other_weights() -> None:
    own, other = model(), model()
    with torch.no_grad():
        next(other.head.parameters()).add_(0.01)
    assert largest_difference(torch_predict(own), torch_predict(other), 6) > 1e-4


@pytest.mark.parametrize("head", sorted(NOT_AS_ONE_GRAPH))
def test_a_head_that_is_no_single_graph_is_refused_by_name(head: str, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=f"head {head} cannot be exported"):
        save_exported(model(head), tmp_path / "m.pt2")
    assert not list(tmp_path.iterdir())


def test_pruning_takes_the_smallest_weights_of_each_layer() -> None:
    layers = nn.Sequential(nn.Linear(4, 5, bias=False), nn.Linear(5, 2))
    weights = list(layers.parameters())[:2]
    before = [weight.detach().clone() for weight in weights]
    assert prune_smallest(layers, 0.5) == 0.5
    for weight, old in zip(weights, before, strict=True):
        kept = weight != 0
        assert torch.equal(weight[kept], old[kept])
        assert old[~kept].abs().max() <= old[kept].abs().min()


@pytest.fixture(scope="module")
def exported(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> RunExportOptions:
    """Every form of a run."""
    pytest.importorskip("onnxscript")
    out, bags = tmp_path_factory.mktemp("exported") / "out", (trained.witness.bags,)
    options = RunExportOptions(run=trained.out, out=out, onnx=True, torch_export=True, int8=True, prune=0.3, bags=bags)
    assert export_run(options).exit_code == 0
    return options


def test_a_run_is_exported_in_every_form_with_its_price(trained: Trained, exported: RunExportOptions) -> None:
    options = exported
    told = json.loads((options.out / "export.json").read_text())
    run_auc = json.loads((trained.out / "metrics.json").read_text())["models"]["gated_abmil"]["auc"]["value"]
    for form in ("onnx", "torch_export", "int8", "pruned"):
        found = told[form]["summary"]
        assert len(told[form]["models"]) == 3
        assert found["auc_before"] == pytest.approx(run_auc, abs=0.03)
        assert found["auc_lost"] == pytest.approx(found["auc_before"] - found["auc_after"])
        assert found["ms_per_slide_before"] > 0
        assert found["ms_per_slide_after"] > 0
    assert told["onnx"]["summary"]["auc_lost"] == told["torch_export"]["summary"]["auc_lost"] == 0
    assert abs(told["int8"]["summary"]["auc_lost"]) < 0.1
    assert told["pruned"]["models"]["fold0_seed0"]["share_of_zeros"] == pytest.approx(0.3, abs=0.01)
    assert load_model(options.out / "pruned" / "fold0_seed0")[0].spec.dim == DIM
    assert told["int8"]["models"]["fold0_seed0"]["largest_logit_difference"] > 0
    assert export_run(options).outcomes[0].status is Status.SKIPPED
    part = replace(options, torch_export=False, int8=False, prune=None, bags=())
    assert export_run(part).outcomes[0].status is Status.SKIPPED
    with pytest.raises(RecipeMismatchError, match="prune"):
        export_run(RunExportOptions(run=trained.out, out=options.out, prune=0.5, bags=options.bags))


def test_an_onnx_file_scores_a_test_slide_as_the_run_did(trained: Trained, exported: RunExportOptions) -> None:
    run = RunFolder(trained.out)
    scores = read_scores(run.model(run.head, 1, 0) / "scores.csv")
    image_id = scores.image_ids[int(np.flatnonzero(scores.test_S)[0])]
    rows = read_features(trained.witness.bags / f"{image_id}.h5").astype(np.float32)
    found = onnx_predict(exported.out / "onnx" / "fold1_seed0.onnx")(rows)
    assert centred(found[None])[0] == pytest.approx(scores.logits_SC[scores.test_S][0], abs=1e-4)


def test_a_pruned_model_is_measured_when_bags_are_given_and_made_again_when_it_is_gone(
    pruned: Path, trained: Trained, tmp_path: Path
) -> None:
    options = RunExportOptions(run=trained.out, out=tmp_path / "out", prune=0.3, bags=(trained.witness.bags,))
    shutil.copytree(pruned, options.out)
    told = json.loads((options.out / "export.json").read_text())
    del told["pruned"]["summary"]["measured_on"]
    (options.out / "export.json").write_text(json.dumps(told))  # as without bags
    assert export_run(options).outcomes[0].status is Status.DONE
    assert export_run(options).outcomes[0].status is Status.SKIPPED
    file = options.out / "pruned" / "fold2_seed0" / "model.json"
    file.unlink()
    assert export_run(options).outcomes[0].status is Status.DONE
    assert file.is_file()
    file.write_text("{}")
    with pytest.raises(RequestError, match="was changed since it was written"):
        export_run(options)


def test_a_stopped_export_is_gone_on_with_and_foreign_files_are_kept(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = RunExportOptions(run=trained.out, out=tmp_path / "out", prune=0.3, bags=(trained.witness.bags,))
    (options.out / "pruned" / "fold1_seed0").mkdir(parents=True)
    foreign = options.out / "pruned" / "fold1_seed0" / "model.json"
    foreign.write_text("mine")
    with pytest.raises(RequestError, match="was not written by this command"):
        export_run(options)
    assert foreign.read_text() == "mine"
    foreign.unlink()
    with monkeypatch.context() as patch:
        patch.setattr("mil.inference.portable.leaner.prune_smallest", Stop(after=1))
        with pytest.raises(KeyboardInterrupt):
            export_run(options)
    assert (options.out / "pruned" / "fold0_seed0" / "model.json").is_file()
    assert export_run(options).outcomes[0].status is Status.DONE


class Stop:
    """Ctrl-C at the call after some."""

    def __init__(self, after: int) -> None:
        self.left = after

    def __call__(self, model: nn.Module, share: float) -> float:
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        return prune_smallest(model, share)


@pytest.mark.parametrize(
    ("raised", "expected"),
    [(KeyboardInterrupt(), KeyboardInterrupt), (OSError(28, "No space left on device"), OSError)],
)
@pytest.mark.parametrize("save", [save_onnx, save_exported])
def test_an_interruption_and_a_full_disk_are_not_put_down_to_the_head(
    raised: BaseException, expected: type[BaseException], save: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrapped(*arguments: object, **options: object) -> None:
        if isinstance(raised, OSError):
            raise raised
        raise RuntimeError("the exporter failed") from raised

    monkeypatch.setattr(torch.onnx, "export", wrapped)
    monkeypatch.setattr(torch.export, "export", wrapped)
    with pytest.raises(expected):
        save(model(), tmp_path / "m.onnx")


@pytest.fixture(scope="module")
def pruned(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("pruned") / "out"
    export_run(RunExportOptions(run=trained.out, out=out, prune=0.3, bags=(trained.witness.bags,)))
    return out


def test_one_graph_tells_what_predict_tells(trained: Trained, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    run = tmp_path / "run"
    shutil.copytree(trained.out, run)
    path = run / "calibration.json"
    told = json.loads(path.read_text()) | {"method": "platt", "temperature": 1.7, "shift": [0.4, -0.4], "floor": 0.03}
    path.write_text(json.dumps(told))
    ensemble = load_ensemble(RunFolder(run), "cpu")
    save_run(ensemble, tmp_path / "run.onnx")
    save_card(ensemble, tmp_path / "run.md")
    predict(PredictOptions(run=(run,), items=(trained.witness.bags,), out=tmp_path / "p.csv", manifest=None))
    with (tmp_path / "p.csv").open(newline="") as file:
        rows = {row["patient_id"]: row for row in csv.DictReader(file)}
    logits, told_by_graph = (onnx_predict(tmp_path / "run.onnx", name) for name in ("logits", "probabilities"))
    bag = {path.stem: read_features(path).astype(np.float32) for path in trained.witness.bags.glob("*.h5")}
    for patient in ("0001", "0003"):  # of one slide
        own = [float(rows[patient][name]) for name in ("CE", "LAA")]
        assert told_by_graph(bag[f"{patient}_0"]) == pytest.approx(own, abs=1e-5)
    both = np.mean([logits(bag["0005_0"]), logits(bag["0005_1"])], axis=0)  # by the card's formula
    odds = np.exp(both / 1.7 + [0.4, -0.4])
    assert 0.06 / 2 + 0.94 * odds / odds.sum() == pytest.approx(
        [float(rows["0005"][name]) for name in ("CE", "LAA")], abs=1e-5
    )
    card = (tmp_path / "run.md").read_text()
    for line in (
        '- **classes**: `["CE", "LAA"]`',
        "- **encoder**: `made (24 features)`",
        "- **scale**: `0.5 um/px, tiles of 256 px`",
        "- **input**: `rows: float32 (tiles, 24)",
        "- **formula**: `probabilities = 0.06 / 2 + (1 - 0.06) * softmax(logits / 1.7 + [0.4, -0.4])`",
        "- **several slides**: ``` average the `logits` of a patient's slides",
    ):
        assert line.replace("```", "``") in card


def test_a_graph_that_differs_from_its_run_is_refused(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxscript")
    ensemble = load_ensemble(RunFolder(trained.out), "cpu")
    graph = OneRun(ensemble)
    graph.calibration = replace(graph.calibration, shift=(0.01, 0.0))
    monkeypatch.setattr("mil.inference.portable.one_graph.OneRun", lambda _: graph)
    with pytest.raises(RequestError, match="probabilities differ"):
        save_run(ensemble, tmp_path / "run.onnx")


@pytest.mark.parametrize("target", ["labels", "value"])
def test_one_graph_of_other_targets(target: str, tmp_path: Path, write_cohort: Callable[..., Witness]) -> None:
    witness = write_cohort(tmp_path, n_patients=10)
    text = witness.manifest.read_text()
    if target == "value":
        text = text.replace(",label,", ",value,").replace(",CE,", ",400,").replace(",LAA,", ",500,")
    witness.manifest.write_text(text)
    options = witness.options(
        tmp_path / "run", target=target, head="mean_mlp", baselines=(), folds=2, epochs=2, hidden=4
    )
    train(options)
    predict(PredictOptions(run=(options.out,), items=(tmp_path,), out=tmp_path / "p.csv", manifest=witness.manifest))
    with (tmp_path / "p.csv").open(newline="") as file:
        _, *rows = csv.reader(file)
    ensemble = load_ensemble(RunFolder(options.out), "cpu")
    for patient, *expected in rows[1:4]:  # of one slide
        bag = torch.from_numpy(read_features(tmp_path / f"{patient}_0.h5").astype(np.float32))
        told = OneRun(ensemble).eval()(bag)[1].detach().numpy()
        assert told == pytest.approx([float(value) for value in expected], rel=2e-6, abs=1e-5)


def test_an_extra_class_is_never_told(tmp_path: Path, write_cohort: Callable[..., Witness]) -> None:
    pytest.importorskip("onnxscript")
    witness = write_cohort(tmp_path, n_patients=12)
    rows = instances(np.random.default_rng(0), 40, positive=False)
    for image_id in ("x_0", "x_1"):
        write_bag(tmp_path / f"{image_id}.h5", [rows + (image_id == "x_1")], grid(40), facts_of_bag(image_id))
    (tmp_path / "other.csv").write_text("image_id,patient_id,label\nx_0,xa,Other\nx_1,xb,Other\n")
    options = witness.options(
        tmp_path / "run", other=tmp_path / "other.csv", other_label="Other", baselines=(), folds=2, epochs=1, hidden=4
    )
    train(options)
    run = RunFolder(options.out)
    assert load_model(run.model(run.head, 0, 0))[0].spec.n_classes == 3
    export_run(RunExportOptions(run=options.out, out=tmp_path / "out", onnx=True, torch_export=True))
    told = json.loads((tmp_path / "out" / "export.json").read_text())
    bag = rows.astype(np.float32)
    assert told["classes"] == ["CE", "LAA"]
    assert onnx_predict(tmp_path / "out" / "onnx" / "fold0_seed0.onnx")(bag).shape == (2,)
    assert onnx_predict(tmp_path / "out" / "run.onnx", "probabilities")(bag).shape == (2,)
    module = torch.export.load(tmp_path / "out" / "torch_export" / "fold0_seed0.pt2").module()
    assert module(torch.from_numpy(bag)).shape == (2,)


@pytest.mark.parametrize(
    ("changes", "told"),
    [({}, "nothing to export"), ({"prune": 1.5}, "--prune"), ({"int8": True}, "--bags"), ({"prune": 0.5}, "--bags")],
)
def test_a_wrong_request_is_one_line(tmp_path: Path, changes: dict[str, object], told: str) -> None:
    with pytest.raises(RequestError, match=told):
        RunExportOptions(run=tmp_path, out=tmp_path / "out", **changes)  # type: ignore[arg-type]
