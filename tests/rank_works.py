"""What the ranks that tests start do. It imports no more than that takes: each rank imports all of it anew."""

import numpy as np
import torch

from features.distributed import Place, process_group
from features.started import JOINED
from mil.training.fit import new_model
from mil.training.jobs import FitJob, divide
from mil.training.loop import Loop
from mil.training.options import TrainOptions
from mil.training.ranks import Ranks
from mil.training.sampling import draw_batch
from mil.training.training_data import gather

Case = tuple[TrainOptions, list[int]]
"""Options, and the bags of a batch."""


def gradients(options: TrainOptions, batch: list[int], ranks: Ranks) -> list[torch.Tensor]:
    """Return the gradients of one batch of bags, all parameters of the head."""
    data = gather(options)
    cohort = data.open()[0]
    job = FitJob(head=options.head, fold=0, seed=0, folder=options.out, options=options, recipe_hash="")
    parts = divide(cohort, data.folds, job)
    model = new_model(job, cohort, parts, ranks)
    loop = Loop(job, cohort, parts, model, ranks)
    drawn = draw_batch(cohort, parts.train[batch], options, np.random.default_rng(0))
    loop.gradients(drawn)
    return [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in model.parameters()]


def ranked_gradients(cases: list[Case], place: Place, store: object, send: object) -> None:
    torch.set_num_threads(1)
    with process_group(place, torch.device("cpu"), store) as group:  # type: ignore[arg-type]
        for number, (options, batch) in enumerate(cases):
            found = gradients(options, batch, Ranks(place.rank, place.world, group))
            send(("gradients", ((number, place.rank), [grad.numpy() for grad in found])))  # type: ignore[operator]
    send((JOINED, ()))  # type: ignore[operator]
