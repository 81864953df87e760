"""Distillation: the models of a finished run teach one head, without a word about the patients it is tested on.

The teachers of a fold are the run's models of that same fold, seeds averaged: trained on the fold's training patients
alone. Out-of-fold scores would not do: the model that scored a training patient out of fold was itself trained on the
patients whom the student is tested on, and its soft targets could tell of them. The price is that a teacher has seen
the slides that it teaches. The inner validation patients of the student, who decide when it stops, are among those.
"""

import numpy as np

from features.folds import folds_of
from mil.data.cohort import Cohort
from mil.data.splits import read_splits
from mil.models.ensemble import load_ensemble
from mil.models.scoring import score_each
from mil.run.folder import RunFolder
from mil.training.options import TrainOptions
from wsi.arrays import Floats, Ints
from wsi.errors import RequestError
from wsi.pages import plural


def teach(options: TrainOptions, fold: int, cohort: Cohort, folds: Ints) -> Floats | None:
    """Return the teacher's logits (N, C) for the slides of the other folds, zeros elsewhere; None without a teacher.

    Raises
    ------
    RequestError
        The run is not finished, has other classes or features, or other splits.
    """
    if options.teacher is None:
        return None
    run = RunFolder(options.teacher)
    check_teacher(run, cohort, folds)
    ensemble = load_ensemble(run, options.device, options.max_rows)
    models = [member.model for member in ensemble.members if member.fold == fold]
    logits_SC = np.zeros((len(cohort), len(cohort.target.names)))
    seen = np.flatnonzero((folds != fold) & cohort.usable_N)
    bags = [cohort.bags[i] for i in seen]
    logits_SC[seen] = np.mean(score_each(models, bags, ensemble.compute), axis=0)
    return logits_SC


def check_teacher(run: RunFolder, cohort: Cohort, folds: Ints) -> None:
    """Raise `RequestError` unless the run has the same classes, feature width, patients and splits."""
    where = f"--teacher {run.path}"
    if run.classes != cohort.target.names:
        raise RequestError(f"{where}: expected the classes {cohort.target.names}, found {run.classes}")
    dim, wanted = int(run.recipe["bags"]["dim"]), cohort.bags[0].shape[1]
    if dim != wanted:
        raise RequestError(f"{where}: its models take features of width {dim}, these bags have {wanted}")
    table = run.path / "splits.csv"
    own, given = dict(zip(cohort.image_ids, folds.tolist(), strict=True)), read_splits(table)
    if given == own:
        folds_of(table, cohort.image_ids, cohort.groups)
    else:
        other = sorted(i for i in {*own, *given} if own.get(i) != given.get(i))
        raise RequestError(
            f"{where}: its splits differ for {plural(len(other), 'slide')} ({', '.join(other[:3])}), so that its "
            f"models may have seen test patients: give --splits {table}"
        )
