"""`gigamil finetune`: in this process, in several that it starts, or under torchrun."""

import time
from typing import Any

from features.distributed import Group
from features.encoders.device import reproducible_arithmetic
from features.encoders.timm_encoder import TimmEncoder
from features.finetune.cohort import Cohort, gather
from features.finetune.loop import Trainer
from features.finetune.model import build_model
from features.finetune.options import FinetuneOptions
from features.finetune.results import last_facts, write_results
from features.learning.ranks import Job, Setting, run_job, standing_of
from features.learning.weights_file import is_made
from wsi.options import stage
from wsi.progress.outcome import Outcome, Progress, Silent, Status, Summary


@stage
def finetune(options: FinetuneOptions, progress: Progress | None = None) -> Summary:
    """Train the encoder on labelled tiles, held out one fold of patients; write its weights.

    Stopped in whatever way, the same command goes on from the last checkpoint; on a CPU with one rank it ends with the
    same bits. Under torchrun, rank 0 tells for all.

    Raises
    ------
    RequestError
        The inputs do not fit each other, or the weights there were made with other settings.
    ItemError
        A loss is not finite (the step and the slides are named), or a rank died.
    """
    began = time.perf_counter()
    job = Job(__name__, _gathered, is_made, _train, _outcomes)
    outcomes = run_job(job, options, progress or Silent())
    return Summary("finetune", outcomes, time.perf_counter() - began)


def _gathered(options: FinetuneOptions, encoder: TimmEncoder, precision: str) -> Cohort:
    return gather(options, encoder.spec, precision)


def _outcomes(options: FinetuneOptions, cohort: Cohort, status: Status) -> list[Outcome]:
    failed = [Outcome(image_id, Status.FAILED, reason) for image_id, reason in cohort.failures.items()]
    facts: dict[str, Any] = {"weights": str(options.out), **last_facts(options)}
    facts |= {"train_slides": len(cohort.train), "val_slides": len(cohort.val)}
    return [Outcome(options.out.stem, status, facts=facts), *failed]


def _train(
    options: FinetuneOptions,
    cohort: Cohort,
    encoder: TimmEncoder,
    setting: Setting,
    group: Group,
    progress: Progress,
) -> None:
    with reproducible_arithmetic():
        trainer = Trainer(options, cohort, build_model(options, encoder, len(cohort.classes)), setting, progress)
        standing = standing_of(options, cohort.recipe, group)
        if standing is not None:
            trainer.go_on_from(standing)
        tiles = round(trainer.steps_left * trainer.tiles_per_epoch / trainer.steps_per_epoch)
        progress.begin(f"finetune {encoder.spec.name}", tiles, "tiles")
        model = trainer.run()
        if setting.save:
            write_results(options, cohort, model, trainer.standing)
