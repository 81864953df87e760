"""Tiles with their classes, gathered from annotated slides, and the models that learn from them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from features.bags.bag import BagHeader, read_coords
from features.folds import check_patients_per_class, patient_folds
from mil.data.cohort import load_rows, making_of
from mil.tiles.classifier import Linear, TileClassifier, fit
from mil.tiles.labels import tile_labels
from mil.tiles.options import ClassifyTilesOptions
from wsi.annotations.regions import annotation_file
from wsi.arrays import Features, Ints
from wsi.errors import BagError, GigamilError, RequestError
from wsi.progress.outcome import Outcome, Progress, Status
from wsi.recipe import Json


@dataclass(frozen=True, slots=True)
class Gathered:
    """Labelled tiles of all annotated slides; the fields run in parallel, N tiles."""

    rows_ND: Features
    """float32."""
    labels: tuple[str, ...]
    image_ids: tuple[str, ...]


def gather(
    options: ClassifyTilesOptions, headers: Mapping[str, BagHeader], progress: Progress
) -> tuple[Gathered, list[Outcome]]:
    """Read the labelled tiles; return them, and the slides that failed.

    Raises
    ------
    RequestError
        No slide is annotated, or none has a tile in a region.
    """
    assert options.annotations is not None
    files = {image_id: file for image_id in headers if (file := annotation_file(options.annotations, image_id))}
    parts: list[Features] = []
    labels: list[str] = []
    image_ids: list[str] = []
    failed = []
    progress.begin("read annotated tiles", len(files), "slides")
    for image_id, file in files.items():
        header = headers[image_id]
        try:
            if not header.tile_px_l0:
                raise BagError(f"{header.path}: does not tell how large its tiles are: extract the bag again")
            found = tile_labels(
                file, read_coords(header.path), header.tile_px_l0, options.annotation_class, options.rest
            )
            rows = load_rows(header)
            for name, tiles in found.items():
                kept = drawn(tiles, options.most_tiles, options.seed)
                parts.append(np.asarray(rows[kept], np.float32))
                labels += [name] * len(kept)
                image_ids += [image_id] * len(kept)
        except (GigamilError, OSError) as error:
            failed.append(Outcome(f"{image_id} (annotations)", Status.FAILED, str(error)))
        progress.advance(1)
    progress.end()
    if not labels:
        why = failed[0].reason if failed else f"{len(files)} of {len(headers)} slides have a file there"
        raise RequestError(f"--annotations {options.annotations}: no tile lies in a region of a class ({why})")
    return Gathered(np.concatenate(parts), tuple(labels), tuple(image_ids)), failed


def drawn(tiles: Ints, most: int, seed: int) -> Ints:
    """Return the tiles, or so many of them, drawn at random, in their order."""
    return tiles if len(tiles) <= most else np.sort(np.random.default_rng(seed).choice(tiles, most, replace=False))


def learn(
    options: ClassifyTilesOptions, headers: Mapping[str, BagHeader], patients: Mapping[str, str], found: Gathered,
    progress: Progress,
) -> tuple[TileClassifier, Json]:  # fmt: skip
    """Fit a model without each fold's patients, and one on all; return them, and how well the former judge their folds.

    Raises
    ------
    RequestError
        Too few patients of a class.
    """
    people = [patients[image_id] for image_id in found.image_ids]
    check_patients_per_class(found.labels, people, options.folds)
    fold_N = patient_folds(found.labels, people, options.folds, options.seed)
    names, label_N = np.unique(found.labels, return_inverse=True)
    progress.begin("fit", options.folds + 1, "models")
    models, judged = [], []
    for fold in range(options.folds):
        train_N = fold_N != fold
        if len(set(label_N[train_N])) < len(names):
            raise RequestError(f"fold {fold} leaves no tile of a class to learn from: give fewer --folds")
        models.append(_fitted(options, found.rows_ND[train_N], label_N[train_N], progress))
        judged.append({"fold": fold, **_judged(models[-1], found, people, ~train_N, label_N, names)})
    whole = _fitted(options, found.rows_ND, label_N, progress)
    progress.end()
    classifier = TileClassifier(
        classes=tuple(names.tolist()),
        making=making_of({i: headers[i] for i in sorted(set(found.image_ids))}),
        whole=whole,
        of_fold=tuple(models),
        folds=dict(zip(people, fold_N.tolist(), strict=True)),
        patients={i: patients[i] for i in found.image_ids},
    )
    return classifier, _told(judged, found, people)


def _fitted(options: ClassifyTilesOptions, rows_ND: Features, label_N: Ints, progress: Progress) -> Linear:
    model, ended = fit(rows_ND, label_N, options.c, options.seed)
    if not ended:
        progress.note("the logistic regression did not come to its end: give a smaller --C")
    progress.advance(1)
    return model


def _judged(
    model: Linear, found: Gathered, people: Sequence[str], test_N: np.ndarray, label_N: Ints, names: np.ndarray
) -> Json:
    """Return the AUC of each class against the others on the tiles of one fold; None where only one kind is there."""
    from sklearn.metrics import roc_auc_score

    told_NC, true_N = model.probabilities(found.rows_ND[test_N]), label_N[test_N]
    auc = {}
    for i, name in enumerate(names.tolist()):
        is_N = true_N == i
        auc[name] = float(roc_auc_score(is_N, told_NC[:, i])) if 0 < is_N.sum() < len(is_N) else None
    own = {who for who, tested in zip(people, test_N, strict=True) if tested}
    return {"patients": len(own), "tiles": int(test_N.sum()), "auc": auc}


def _told(judged: list[Json], found: Gathered, people: Sequence[str]) -> Json:
    """Return what metrics.json holds: each fold, and each class's mean over the folds."""
    told: Json = {"folds": judged, "classes": {}}
    for name in sorted(set(found.labels)):
        aucs = [own["auc"][name] for own in judged if own["auc"][name] is not None]
        members = [who for who, label in zip(people, found.labels, strict=True) if label == name]
        told["classes"][name] = {
            "tiles": len(members),
            "patients": len(set(members)),
            "auc": float(np.mean(aucs)) if aucs else None,
            "lowest": min(aucs, default=None),
            "highest": max(aucs, default=None),
        }
    return told
