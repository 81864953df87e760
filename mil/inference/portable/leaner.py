"""Leaner forms of a model, with 8-bit weights or without its smallest weights, and what a form costs, measured."""

import logging
import time
import warnings
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from features.bags.bag import BagHeader
from mil.data.cohort import cohort_digest, load_rows, scan_bags
from mil.data.splits import Known, known_slides
from mil.inference.portable.graph import Floats32, Predict, onnx_predict, save_onnx, torch_predict
from mil.models.ensemble import check_bags_fit
from mil.models.model import BagModel, load_model, save_model
from mil.ragged.packing import Rows
from mil.run.folder import RunFolder
from mil.run.scores import patient_logits
from mil.targets.metrics import auc, centred, ones, softmax
from wsi.cohort.manifest import ManifestRow
from wsi.errors import RequestError
from wsi.files.atomic import replacing
from wsi.files.replace import discard
from wsi.recipe import Json

_REPEATS = 3
"""Times that each bag is scored for the timing; the fastest counts."""
_TIMED = 20
"""Bags that are timed, at most."""
Scored = tuple[int, Predict]
"""The fold that a model has not seen, and the model."""


def save_int8(model: BagModel, file: Path) -> Predict:
    """Write the ONNX form with 8-bit weights; what goes in is scaled to 8 bits bag by bag."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

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
    return onnx_predict(file)


def _forget_shapes(path: Path) -> None:
    """Take the shapes of inner values off a graph: the quantiser turns weights round and would find them wrong."""
    import onnx

    graph = onnx.load(path)
    del graph.graph.value_info[:]
    onnx.save(graph, path)


def save_pruned(model: BagModel, folder: Path, share: float) -> tuple[Predict, Json]:
    """Write the model with the smallest weights of each layer at 0, as a folder that a run's models are read by."""
    pruned = BagModel(model.spec)
    pruned.load_state_dict(model.state_dict())
    zeros = prune_smallest(pruned.eval(), share)
    save_model(folder, pruned, {"pruned": share})
    compressed = len(zlib.compress((folder / "weights.safetensors").read_bytes()))
    return torch_predict(load_model(folder)[0]), {"bytes_compressed": compressed, "share_of_zeros": zeros}


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


@dataclass(frozen=True, slots=True)
class OwnSlides:
    """The run's own slides, to measure on."""

    headers: Mapping[str, BagHeader]
    known: Known
    digest: str
    """One hash of the bags."""


def own_slides(run: RunFolder, paths: Sequence[Path]) -> OwnSlides:
    """Return the run's slides among the bags; `RequestError` where they were not made as the run's were."""
    if run.fusion != "none":
        raise RequestError(f"{run.path} fuses bags of several encoders: what a leaner form costs is not measured there")
    known = known_slides(run.path)
    headers = scan_bags(paths, list(known.folds)).headers
    check_bags_fit(run, headers)
    return OwnSlides(headers, known, cohort_digest([ManifestRow(*ids) for ids in known.patients.items()], headers))


def measured(before: Sequence[Scored], after: Sequence[Scored], slides: OwnSlides, run: RunFolder) -> Json:
    """Return the out-of-fold AUC and the CPU time a slide of the models as they were and as they are."""
    bags = {i: load_rows(header) for i, header in sorted(slides.headers.items()) if header.n_tiles}
    auc_before, auc_after = (_auc(models, bags, slides.known, run) for models in (before, after))
    return {
        "auc_before": auc_before,
        "auc_after": auc_after,
        "auc_lost": auc_before - auc_after,
        "ms_per_slide_before": _milliseconds(before[0][1], bags),
        "ms_per_slide_after": _milliseconds(after[0][1], bags),
    }


def _auc(models: Sequence[Scored], bags: Mapping[str, Rows], known: Known, run: RunFolder) -> float:
    """Return the patients' AUC, each slide scored by the models that have not seen it."""
    logits = []
    for image_id, bag in bags.items():
        rows = np.asarray(bag, np.float32)
        logits.append(np.mean([predict(rows) for fold, predict in models if fold == known.folds[image_id]], axis=0))
    logits_SC = np.array(logits)
    told_SC, all_S = centred(logits_SC[:, : len(run.classes)]), np.ones(len(bags), bool)
    patients, how = tuple(known.patients[i] for i in bags), str(run.recipe.get("aggregate", "mean"))
    names, logits_PC = patient_logits(told_SC, patients, all_S, how)
    label_of = {known.patients[i]: run.classes.index(known.labels[i]) for i in bags}
    labels_P = np.array([label_of[name] for name in names], np.int64)
    return float(auc(labels_P, softmax(logits_PC), ones(len(names)))[0])


def _milliseconds(predict: Predict, bags: Mapping[str, Rows]) -> float:
    """Return the CPU milliseconds of one model on one slide: the mean over slides of the fastest of a few times."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    timed = (np.asarray(bag, np.float32) for bag in list(bags.values())[:_TIMED])
    taken = [min(_seconds(predict, rows) for _ in range(_REPEATS)) for rows in timed]
    torch.set_num_threads(threads)
    return 1000 * float(np.mean(taken))


def _seconds(predict: Predict, rows: Floats32) -> float:
    start = time.process_time()
    predict(rows)
    return time.process_time() - start
