"""What a run says of the tiles of one slide, in numbers: what pictures, tables, pages and exports show.

The scores are the mean over the models of the run; of a slide that was in the training over the models of its own test
fold, which never saw its patient. Frames: ``l0_`` level-0 pixels of the slide, ``tiles_yx`` tile row and column.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from features.bags.bag import BagHeader, read_coords
from features.slide_encoders.spec import refuse_vector
from mil.data.cohort import load_rows
from mil.data.splits import Known
from mil.heatmaps.pushes import Answer, Way, ask, way_of
from mil.models.ensemble import NOT_FINITE, Ensemble
from mil.ragged.packing import Rows, pack
from mil.run.checks import checked_table
from mil.targets.metrics import centred, midranks
from wsi.arrays import Floats, Ints
from wsi.errors import BagError, RequestError
from wsi.store.tile_store import TileStore

_HOW = {
    "sum": "Exact: what each tile adds; the tiles' pushes add up to {whole}.",
    "max": "Exact: each tile's own score; the highest decides {whole}.",
    "gradient": "Estimated (gradient times input): what each tile changes in {whole}, compared with an average tile.",
}
_WHOLE = {
    "classes": "the slide's score for the class (its log odds, class against the mean of all)",
    "labels": "the slide's log odds of the label",
    "value": "the slide's value, counted from the mean of the training",
    "survival": "the slide's log risk, counted from the mean of the cohort",
}
_TOO_LARGE = "Not told: for this head and {n} tiles the directions would take too much memory."


@dataclass(frozen=True, slots=True, kw_only=True)
class TileScores:
    """Scores of the N tiles of a slide that are both in its bag and its store's tile list; in that list's order."""

    image_id: str
    store_rows_N: Ints
    """(N,) positions in the store's tile list."""
    tiles_yx: NDArray[np.int32]
    """(N, 2) row and column of each tile."""
    l0_yx: Ints
    """(N, 2) top-left corner of each tile in level-0 pixels of the slide."""
    l0_tile_px: float
    """Side of a tile in level-0 pixels of the slide."""
    tissue_N: NDArray[np.float32]
    """(N,) share of each tile that tissue covers."""
    attends: bool
    """Whether the head weighs tiles; where not, each has the same attention."""
    attention_N: Floats
    """(N,) share of the slide's attention; sums to 1."""
    factor_N: Floats
    """(N,) attention as a multiple of the slide's mean; the mean is 1."""
    percentile_N: Floats
    """(N,) rank of the attention within the slide, 0 (lowest) to 1 (highest), ties at their mean."""
    disagreement_N: Floats | None
    """(N,) standard deviation of the factor over the models (n - 1), in its unit; None of a single model."""
    outputs: tuple[str, ...]
    """What is told, by name: the classes or labels, ``value`` or ``risk``."""
    outputs_C: Floats
    """(C,) what is told of the slide: calibrated probabilities, or a value or log risk."""
    push_CN: Floats | None
    """(C, N) how far each tile pushes each output up (above 0) or down; None where that is not told."""
    push_from_C: Floats
    """(C,) what the pushes are counted from, in their unit. Of ``sum`` this and the pushes add up to its score:
    the log odds of a class or label (before the floor of the calibration), a value, a log risk."""
    push_way: Way | None
    push_how: str
    """How the pushes were computed and what they mean, as a sentence; why there are none."""
    models: int
    """Number of models averaged."""
    out_of_fold: bool
    """Whether the slide was in the training, so that only the models that have not seen it were asked."""
    label: str | None
    """Where the run's manifest gives one."""

    def __len__(self) -> int:
        return len(self.attention_N)

    def push_of(self, output: str) -> Floats:
        """Return the pushes (N,) of one output.

        Raises
        ------
        RequestError
            There is no such output, or no pushes are told.
        """
        if output not in self.outputs:
            raise RequestError(f"expected one of {', '.join(self.outputs)}, found {output!r}")
        if self.push_CN is None:
            raise RequestError(f"slide {self.image_id}: no directions. {self.push_how}")
        return self.push_CN[self.outputs.index(output)]


def tile_scores(ensemble: Ensemble, header: BagHeader, store: TileStore, known: Known) -> TileScores:
    """Compute the scores of a slide's tiles from its bag; nothing is extracted again, and no pixel is read.

    Raises
    ------
    BagError
        The bag has no tile, or its coordinates are not those of the store's tile list.
    RequestError
        The models' answer is not finite, or the bag holds one vector for the slide.
    """
    refuse_vector(header)
    rows = load_rows(header)
    if not len(rows):
        raise BagError(f"slide {header.image_id} has no tiles: there is nothing to draw")
    l0_yx = read_coords(header.path, store.mpp / store.l0_px_per_px)
    tiles_K, tile_of_N = np.unique(rows_in_store(l0_yx, store, header), return_inverse=True)
    fold = known.folds.get(header.image_id)
    models = ensemble if fold is None else ensemble.of_fold(fold)
    found = _asked(models, rows, tile_of_N, fold)
    attention_K = found.attention_K
    return TileScores(
        image_id=header.image_id,
        store_rows_N=tiles_K,
        tiles_yx=store.tiles_yx[tiles_K],
        l0_yx=store.coords_l0_yx()[tiles_K],
        l0_tile_px=store.tile_px * store.l0_px_per_px,
        tissue_N=store.tissue[tiles_K],
        attends=found.attends,
        attention_N=attention_K,
        factor_N=attention_K * len(attention_K),
        percentile_N=percentiles(attention_K),
        disagreement_N=found.disagreement_K,
        outputs=ensemble.run.classes,
        outputs_C=models.told(found.logits_C[None])[0],
        push_CN=found.push_CK,
        push_from_C=found.push_from_C,
        push_way=found.way if found.push_CK is not None else None,
        push_how=_how(ensemble, found, len(rows)),
        models=len(models.members),
        out_of_fold=fold is not None,
        label=known.labels.get(header.image_id),
    )


@dataclass(frozen=True, slots=True)
class _Asked:
    """What the models say together of a bag of K tiles."""

    logits_C: Floats
    attends: bool
    attention_K: Floats
    disagreement_K: Floats | None
    way: Way
    push_CK: Floats | None
    push_from_C: Floats


def _asked(models: Ensemble, rows: Rows, tile_of_N: Ints, fold: int | None) -> _Asked:
    """Ask the models one after the other; rows of one tile (its views, where kept) count together."""
    packed, n_tiles = pack([rows], models.compute.device), int(tile_of_N.max()) + 1
    way = way_of(models.members[0].model)
    even_N = np.full(len(rows), 1 / len(rows))
    sums: list[Floats] = []
    logits, attention, attends, counts_K = [], [], True, np.bincount(tile_of_N)
    for member in models.members:
        answer = ask(member, packed, models.compute)
        _check_finite(answer)
        attends = answer.attention_N is not None
        logits.append(answer.logits_C)
        attention.append(_by_tile(even_N if answer.attention_N is None else answer.attention_N, tile_of_N))
        if answer.push_NC is not None:
            own_CK = np.stack([_by_tile(push_N, tile_of_N) for push_N in answer.push_NC.T])
            own_CK = own_CK / counts_K if way == "max" else own_CK  # of views the mean score
            sums = [own_CK] if not sums else [sums[0] + own_CK]
    attention_MK, logits_C = np.stack(attention), np.asarray(np.mean(logits, axis=0))
    attention_K = attention_MK.mean(axis=0)
    spread_K = attention_MK.std(axis=0, ddof=1) * n_tiles if attends and len(attention_MK) > 1 else None
    from_C = _reference(models, fold)
    push_CK = _in_told_units(models, sums[0] / len(logits), attention_K, way, from_C) if sums else None
    return _Asked(logits_C, attends, attention_K, spread_K, way, push_CK, from_C)


def _by_tile(values_N: Floats, tile_of_N: Ints) -> Floats:
    return np.asarray(np.bincount(tile_of_N, weights=values_N))


def _check_finite(answer: Answer) -> None:
    parts = (answer.logits_C, answer.attention_N, answer.push_NC)
    if not all(part is None or np.isfinite(part).all() for part in parts):
        raise RequestError(NOT_FINITE)


def _in_told_units(models: Ensemble, push_CK: Floats, weights_K: Floats, way: Way, from_C: Floats) -> Floats:
    """Return the pushes as parts of what is told: calibrated, and counted from ``from_C``.

    Constants are shared out as the weights are. A gradient has none: it tells a difference.
    """
    shift_C = np.zeros(len(push_CK))
    target, calibration = models.run.predicts, models.calibration
    if target.calibrated:
        push_CK = push_CK / calibration.temperature
        if calibration.shift:
            shift_C = centred(np.array(calibration.shift)[None])[0]
    elif target.kind == "survival":
        shift_C = calibration.moved(-from_C[None])[0]
    if way == "gradient":
        return push_CK
    return push_CK + shift_C[:, None] * (weights_K if way == "sum" else 1.0)


def _reference(models: Ensemble, fold: int | None) -> Floats:
    """Return what pushes are counted from (C,): of log odds 0, of values the mean of the training.

    Log risks have no zero of their own: theirs is the mean of the run's slides, out of fold.
    """
    run, n_outputs = models.run, len(models.run.classes)
    if run.predicts.kind == "value":
        return np.full(n_outputs, np.mean([member.model.spec.shift for member in models.members]))
    if run.predicts.kind != "survival":
        return np.zeros(n_outputs)
    names = [f"logit_{name}" for name in run.classes]
    table = checked_table(run.path / "oof.csv", ("level", "fold", "n_tiles"), names)
    chosen = [row for row in table if row["level"] == "slide" and int(row["n_tiles"]) > 0]
    own = [row for row in chosen if fold is None or int(row["fold"]) == fold]
    mean_C = np.array([np.mean([float(row[name]) for row in own]) for name in names])
    return models.told(mean_C[None])[0]


def _how(ensemble: Ensemble, found: _Asked, n_rows: int) -> str:
    if found.push_CK is None:
        return _TOO_LARGE.format(n=f"{n_rows:,}")
    return _HOW[found.way].format(whole=_WHOLE[ensemble.run.predicts.kind])


def rows_in_store(l0_yx: Ints, store: TileStore, header: BagHeader) -> Ints:
    """Return which of the store's tiles each row of a bag is; a bag may hold some of them, or one several times.

    Raises
    ------
    BagError
        A row is no tile of the store.
    """
    known = store.coords_l0_yx()
    width = max(int(part[:, 1].max(initial=0)) for part in (known, l0_yx)) + 1
    keys, wanted = (part[:, 0] * width + part[:, 1] for part in (known, l0_yx))
    order = np.argsort(keys, kind="stable")
    rows = order[np.minimum(np.searchsorted(keys, wanted, sorter=order), len(order) - 1)] if len(order) else wanted
    missing = int((keys[rows] != wanted).sum()) if len(order) else len(wanted)
    if missing:
        raise BagError(
            f"bag {header.path} and store {store.path} list different tiles ({len(l0_yx)} and {store.n_tiles}, "
            f"{missing} of them not in the store): extract the bag from this store"
        )
    return rows


def percentiles(attention_N: Floats) -> Floats:
    """Return each tile's rank within the slide, 0 (lowest) to 1 (highest), ties at their mean; 1 for a single tile."""
    if len(attention_N) == 1:
        return np.ones(1)
    return np.asarray((midranks(attention_N) - 1) / (len(attention_N) - 1))


def top_tiles(values_N: Sequence[float] | Floats, most: int) -> Ints:
    """Return the positions of the highest values, highest first; of equal ones the first first."""
    return np.argsort(-np.asarray(values_N), kind="stable")[:most]
