"""`gigamil export RUN`: the models of a run for other programs, or leaner, with what it costs measured.

Every form is one file a model, ``<form>/fold<f>_seed<s>``, and an entry in ``export.json``: bytes and CPU milliseconds
a slide beside those of the original, and for forms that lose something the patients' AUC on the out-of-fold slides
before and after. ``--onnx`` also gives ``run.onnx``, the whole run as one graph, with ``run.md``, its card. A graph
that does not agree with its model is refused.
"""

import logging
import time
import warnings
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from features.bags.bag import find_bags
from mil.data.cohort import cohort_digest, load_rows, scan_bags
from mil.data.several_encoders import APART
from mil.data.splits import read_labels, read_patients, read_splits
from mil.inference.one_graph import facts, save_card, save_run
from mil.inference.options import RunExportOptions
from mil.inference.portable import (
    TOLERANCE,
    Predict,
    largest_difference,
    onnx_predict,
    save_exported,
    save_onnx,
    torch_predict,
)
from mil.models.ensemble import Ensemble, Member, check_bags_fit, load_ensemble
from mil.models.model import BagModel, load_model, save_model
from mil.ragged.packing import Rows
from mil.run.folder import RunFolder
from mil.run.outputs import Tables, sha256_of
from mil.run.scores import patient_logits
from mil.targets.metrics import auc, centred, ones, softmax
from mil.training.options import TrainOptions, resolve
from wsi.arrays import Floats
from wsi.cohort.manifest import ManifestRow
from wsi.errors import RequestError
from wsi.files.atomic import check_folder, replacing
from wsi.files.claim import claim
from wsi.files.replace import discard
from wsi.options import stage
from wsi.outcome import Outcome, Progress, Silent, Status, Summary
from wsi.recipe import refuse_other_recipe

Json = dict[str, Any]
MARK = "gigamil-export-1"
"""``format`` of export.json."""
_REPEATS = 3
"""Times that each bag is scored for the timing; the fastest counts."""
_TIMED = 20
"""Bags that are timed, at most."""


@dataclass(frozen=True, slots=True)
class _Slides:
    """The run's own slides, to measure on."""

    bags: dict[str, Rows]
    folds: dict[str, int]
    labels: dict[str, str]
    patients: dict[str, str]
    aggregate: str
    """How a patient's logits come from the slides'."""
    digest: str


@stage
def export_run(options: RunExportOptions, progress: Progress | None = None) -> Summary:
    """Write the models in the forms asked for, and export.json.

    Raises
    ------
    RequestError
        The run is not finished, its head cannot be exported, or the bags are not those of the run.
    """
    start, progress = time.monotonic(), progress or Silent()
    run = RunFolder(options.run)
    check_folder(options.out)
    if run.fusion in APART:
        raise RequestError(f"{run.path} fuses encoders ({run.fusion}): its models do not take the same bags")
    if options.bags:
        run.check_classes("AUC before and after an export (--bags)")
    with claim(options.out):
        left = _left(options, run)
        if not left:
            return Summary("export", [Outcome(str(options.out), Status.SKIPPED)], time.monotonic() - start)
        device = TrainOptions(bags=(Path(),), manifest=Path(), out=Path(), device="cpu", precision="fp32")
        ensemble = load_ensemble(run, resolve(device))
        slides = _slides(run, options) if options.bags else None
        progress.begin("export", len(left) * len(ensemble.members), "models")
        told, sums = _begun(options, run, left)
        told |= {"classes": list(run.classes), "calibration": ensemble.calibration.as_dict()}
        for form in left:
            files = _files(options, run, form)
            _tables(options, files).vouch(_recipe(run), told, sums)  # from here on the form's files are ours
            told[form] = _one_form(form, options, ensemble, slides, progress)
            sums |= {path: sha256_of(path) for path in files}
        progress.end()
        _tables(options, ()).vouch(_recipe(run), told, sums)
    about = {form: told[form]["summary"] for form in options.forms}
    return Summary("export", [Outcome(str(options.out), Status.DONE, facts=about)], time.monotonic() - start)


def _recipe(run: RunFolder) -> Json:
    return {"run": run.config["recipe_hash"]}


def _tables(options: RunExportOptions, files: Sequence[Path]) -> Tables:
    return Tables(options.out / "export.json", tuple(files), MARK)


def _files(options: RunExportOptions, run: RunFolder, form: str) -> list[Path]:
    """Return every file of a form."""
    folds = range(int(run.recipe["folds"]))
    names = [f"fold{fold}_seed{seed}" for fold in folds for seed in range(run.models_per_fold)]
    whole = [options.out / "run.onnx", options.out / "run.md"] if form == "onnx" else []
    return whole + [options.out / form / f"{name}{ending}" for name in names for ending in _ENDINGS[form]]


def _left(options: RunExportOptions, run: RunFolder) -> list[str]:
    """Return the forms that are not there, whole, from this run, and measured where bags are given."""
    measured = _digest(options, run)
    left = []
    for form in options.forms:
        found = _tables(options, _files(options, run, form)).earlier(_recipe(run), overwrite=options.overwrite)
        there = found.get(form) if found else None
        if form == "pruned" and there and there["share"] != options.prune:
            if not options.overwrite:
                refuse_other_recipe(options.out, {"prune": there["share"]}, {"prune": options.prune})
            there = None
        if there is None or (measured and there["summary"].get("measured_on") != measured):
            left.append(form)
    return left


def _begun(options: RunExportOptions, run: RunFolder, left: Sequence[str]) -> tuple[Json, dict[Path, str]]:
    """Return what export.json tells of the forms that stay, and the sums of their files."""
    found = _tables(options, ()).told()
    if found is None or found["recipe"] != _recipe(run):
        return {}, {}
    told = {form: found[form] for form in _WRITERS if form in found and form not in left}
    kept = {path for form in told for path in _files(options, run, form)}
    sums = {options.out / name: str(own) for name, own in found["sha256"].items()}
    return told, {path: own for path, own in sums.items() if path in kept}


def _digest(options: RunExportOptions, run: RunFolder) -> str:
    """Return one hash of the bags to measure on; empty where there are none."""
    if not options.bags:
        return ""
    patients = read_patients(run.path / "splits.csv")
    found = scan_bags(options.bags, list(patients))
    return cohort_digest([ManifestRow(*ids) for ids in patients.items()], found.headers)


def _slides(run: RunFolder, options: RunExportOptions) -> _Slides:
    """Return the run's slides that have tiles among the bags."""
    table = run.path / "splits.csv"
    folds = read_splits(table)
    if run.fusion != "none":
        raise RequestError(f"{run.path} fuses bags of several encoders: what a leaner form costs is not measured there")
    find_bags(options.bags)
    found = scan_bags(options.bags, list(folds))
    check_bags_fit(run, list(found.headers.values()))
    bags = {image_id: load_rows(header) for image_id, header in found.headers.items() if header.n_tiles}
    how = str(run.recipe.get("aggregate", "mean"))
    return _Slides(bags, folds, read_labels(table), read_patients(table), how, _digest(options, run))


def _one_form(
    form: str, options: RunExportOptions, ensemble: Ensemble, slides: _Slides | None, progress: Progress
) -> Json:
    """Write one form of every model; return what it is like."""
    write, run = _WRITERS[form], ensemble.run
    models: dict[str, Json] = {}
    pairs: list[tuple[Member, Predict, Predict]] = []
    for member in ensemble.members:
        name = f"fold{member.fold}_seed{member.seed}"
        path = options.out / form / name
        own = torch_predict(member.model)
        made = write(member.model, path, options)
        apart = largest_difference(own, made.predict, member.model.spec.dim)
        if form in ("onnx", "torch_export") and not apart <= TOLERANCE:
            raise RequestError(f"{path}: its logits differ from the model's by {apart:.2g}: expected {TOLERANCE:g}")
        weights = run.model(run.head, member.fold, member.seed) / "weights.safetensors"
        models[name] = {"largest_logit_difference": apart, **made.facts, "bytes_of_the_run": weights.stat().st_size}
        pairs.append((member, own, made.predict))
        progress.advance(1)
    summary: Json = {
        "bytes": sum(model["bytes"] for model in models.values()),
        "bytes_of_the_run": sum(model["bytes_of_the_run"] for model in models.values()),
    }
    if slides is not None:
        summary |= {**_measured(pairs, slides, run.classes), "measured_on": slides.digest}
    about: Json = {"share": options.prune} if form == "pruned" else {}
    if form == "onnx":
        apart = save_run(ensemble, options.out / "run.onnx")
        save_card(ensemble, options.out / "run.md")
        about["run"] = {**facts(run, ensemble.calibration), "largest_difference": apart}
    return {"summary": summary, "models": models, **about}


@dataclass(frozen=True, slots=True)
class _Made:
    predict: Predict
    facts: Json


def _write_onnx(model: BagModel, path: Path, options: RunExportOptions) -> _Made:
    file = path.with_suffix(".onnx")
    predict = save_onnx(model, file)
    return _Made(predict, {"bytes": file.stat().st_size})


def _write_exported(model: BagModel, path: Path, options: RunExportOptions) -> _Made:
    file = path.with_suffix(".pt2")
    predict = save_exported(model, file)
    return _Made(predict, {"bytes": file.stat().st_size})


def _write_int8(model: BagModel, path: Path, options: RunExportOptions) -> _Made:
    """Write the ONNX form with 8-bit weights; what goes in is scaled to 8 bits bag by bag."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    file = path.with_suffix(".onnx")
    with replacing(file) as temporary, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)  # advice on preparing the graph, which does not concern matrix products
        whole = temporary.with_suffix(".float.onnx")
        try:
            save_onnx(model, whole)
            _forget_shapes(whole)
            quantize_dynamic(whole, temporary, weight_type=QuantType.QInt8)
        finally:
            logging.disable(logging.NOTSET)
            discard(whole)
    return _Made(onnx_predict(file), {"bytes": file.stat().st_size})


def _forget_shapes(path: Path) -> None:
    """Take the shapes of inner values off a graph: the quantiser turns weights round and would find them wrong."""
    import onnx

    graph = onnx.load(path)
    del graph.graph.value_info[:]
    onnx.save(graph, path)


def _write_pruned(model: BagModel, path: Path, options: RunExportOptions) -> _Made:
    """Write the model with the smallest weights of each layer at 0, as a folder that a run's models are read by."""
    assert options.prune is not None
    pruned = BagModel(model.spec)
    pruned.load_state_dict(model.state_dict())
    pruned.eval()
    zeros = prune_smallest(pruned, options.prune)
    save_model(path, pruned, {"pruned": options.prune})
    data = (path / "weights.safetensors").read_bytes()
    facts = {"bytes": len(data), "bytes_compressed": len(zlib.compress(data)), "share_of_zeros": zeros}
    return _Made(torch_predict(load_model(path)[0]), facts)


@torch.no_grad()
def prune_smallest(model: nn.Module, share: float) -> float:
    """Set the smallest weights of each linear layer to 0; return the share of all weights that are 0.

    Source: Han et al., Learning both Weights and Connections, NeurIPS 2015, arXiv 1506.02626; without retraining.
    """
    weights = [layer.weight for layer in model.modules() if isinstance(layer, nn.Linear)]
    for weight in weights:
        count = round(share * weight.numel())
        weight.view(-1)[weight.abs().view(-1).argsort(stable=True)[:count]] = 0
    total = sum(weight.numel() for weight in weights)
    return sum(int((weight == 0).sum()) for weight in weights) / max(total, 1)


_WRITERS: Mapping[str, Callable[[BagModel, Path, RunExportOptions], _Made]] = {
    "onnx": _write_onnx,
    "torch_export": _write_exported,
    "int8": _write_int8,
    "pruned": _write_pruned,
}
_ENDINGS: Mapping[str, tuple[str, ...]] = {
    "onnx": (".onnx",),
    "torch_export": (".pt2",),
    "int8": (".onnx",),
    "pruned": ("/weights.safetensors", "/model.json"),
}


def _measured(pairs: Sequence[tuple[Member, Predict, Predict]], slides: _Slides, classes: Sequence[str]) -> Json:
    """Return the out-of-fold AUC and the CPU time a slide of the models as they were and as they are."""
    before, after = ([(member, pair[place]) for member, *pair in pairs] for place in (0, 1))
    auc_before, auc_after = (_auc(one, slides, classes) for one in (before, after))
    ms_before, ms_after = (_milliseconds(one, slides) for one in (before, after))
    return {
        "auc_before": auc_before,
        "auc_after": auc_after,
        "auc_lost": auc_before - auc_after,
        "ms_per_slide_before": ms_before,
        "ms_per_slide_after": ms_after,
    }


def _auc(models: Sequence[tuple[Member, Predict]], slides: _Slides, classes: Sequence[str]) -> float:
    """Return the patients' AUC, each slide scored by the models that have not seen it."""
    ids = sorted(slides.bags)
    logits_SC = np.array([_mean_logits(models, slides, image_id) for image_id in ids])
    patients = tuple(slides.patients[image_id] for image_id in ids)
    told_SC, all_S = centred(logits_SC[:, : len(classes)]), np.ones(len(ids), bool)
    names, logits_PC = patient_logits(told_SC, patients, all_S, slides.aggregate)
    label_of = {slides.patients[image_id]: classes.index(slides.labels[image_id]) for image_id in ids}
    labels_P = np.array([label_of[name] for name in names], np.int64)
    return float(auc(labels_P, softmax(logits_PC), ones(len(names)))[0])


def _mean_logits(models: Sequence[tuple[Member, Predict]], slides: _Slides, image_id: str) -> Floats:
    rows = np.asarray(slides.bags[image_id], np.float32)
    unseen = [predict(rows) for member, predict in models if member.fold == slides.folds[image_id]]
    return np.asarray(np.mean(unseen, axis=0))


def _milliseconds(models: Sequence[tuple[Member, Predict]], slides: _Slides) -> float:
    """Return the CPU milliseconds of one model on one slide: the mean over slides of the fastest of a few times."""
    _, predict = models[0]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    taken = []
    for image_id in sorted(slides.bags)[:_TIMED]:
        rows = np.asarray(slides.bags[image_id], np.float32)
        taken.append(min(_seconds(predict, rows) for _ in range(_REPEATS)))
    torch.set_num_threads(threads)
    return 1000 * float(np.mean(taken))


def _seconds(predict: Predict, rows: Any) -> float:
    start = time.process_time()
    predict(rows)
    return time.process_time() - start
