"""The models of a run for other programs: the same numbers, and a price that was measured."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from witness import DIM, Trained

from features.bag import read_features
from mil.export import RunExportOptions, export_run, prune_smallest
from mil.heads import HEADS, HeadSpec
from mil.model import BagModel, load_model
from mil.portable import largest_difference, save_exported, save_onnx, torch_predict
from mil.run import RunFolder
from mil.scores import centred, read_scores
from wsi.errors import RecipeMismatchError, RequestError
from wsi.outcome import Status

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
    before = [layer.weight.detach().clone() for layer in layers]  # type: ignore[union-attr]
    assert prune_smallest(layers, 0.5) == 0.5
    for layer, old in zip(layers, before, strict=True):
        kept = layer.weight != 0  # type: ignore[union-attr]
        assert torch.equal(layer.weight[kept], old[kept])  # type: ignore[union-attr]
        assert old[~kept].abs().max() <= old[kept].abs().min()


def test_a_run_is_exported_in_every_form_with_its_price(trained: Trained, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    bags = trained.witness.bags
    options = RunExportOptions(
        run=trained.out, out=tmp_path / "out", onnx=True, torch_export=True, int8=True, prune=0.3, bags=(bags,)
    )
    assert export_run(options).exit_code == 0
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
    with pytest.raises(RecipeMismatchError, match="prune"):
        export_run(RunExportOptions(run=trained.out, out=options.out, prune=0.5, bags=(bags,)))


def test_an_onnx_file_scores_a_test_slide_as_the_run_did(trained: Trained, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    from mil.portable import onnx_predict

    export_run(RunExportOptions(run=trained.out, out=tmp_path / "out", onnx=True))
    run = RunFolder(trained.out)
    scores = read_scores(run.model(run.head, 1, 0) / "scores.csv")
    image_id = scores.image_ids[int(np.flatnonzero(scores.test_S)[0])]
    rows = read_features(trained.witness.bags / f"{image_id}.h5").astype(np.float32)
    found = onnx_predict(tmp_path / "out" / "onnx" / "fold1_seed0.onnx")(rows)
    assert centred(found[None])[0] == pytest.approx(scores.logits_SC[scores.test_S][0], abs=1e-4)


@pytest.mark.parametrize(
    ("changes", "told"),
    [({}, "nothing to export"), ({"prune": 1.5}, "--prune"), ({"int8": True}, "--bags"), ({"prune": 0.5}, "--bags")],
)
def test_a_wrong_request_is_one_line(tmp_path: Path, changes: dict[str, object], told: str) -> None:
    with pytest.raises(RequestError, match=told):
        RunExportOptions(run=tmp_path, out=tmp_path / "out", **changes)  # type: ignore[arg-type]
