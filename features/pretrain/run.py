"""`gigamil pretrain`: in this process, in several that it starts, or under torchrun."""

import json
import time
from typing import Any

from features.distributed import Group
from features.encoders.device import reproducible_arithmetic
from features.encoders.timm_encoder import TimmEncoder
from features.learning.ranks import Job, Setting, run_job, standing_of
from features.learning.weights_file import is_made, write_weights
from features.pretrain.cohort import Cohort, gather
from features.pretrain.loop import Trainer
from features.pretrain.model import build_objective, views_of
from features.pretrain.options import PretrainOptions
from features.pretrain.probe import OnlineProbe
from features.pretrain.sources import FormulaImages, Source, TileImages
from features.pretrain.views import View
from wsi.options import stage
from wsi.progress.outcome import Outcome, Progress, Silent, Status, Summary


@stage
def pretrain(options: PretrainOptions, progress: Progress | None = None) -> Summary:
    """Train a network without labels, on formula images or on one's own tiles; write its weights.

    Stopped in whatever way, the same command goes on from the last checkpoint; on a CPU with one rank it ends with the
    same bits. Under torchrun, rank 0 tells for all.

    Raises
    ------
    RequestError
        The inputs do not fit each other, or the weights there were made with other settings.
    ItemError
        A loss is not finite, the features have collapsed, or a rank died.
    """
    began = time.perf_counter()
    job = Job(__name__, gather, is_made, _train, _outcomes)
    outcomes = run_job(job, options, progress or Silent())
    return Summary("pretrain", outcomes, time.perf_counter() - began)


def _outcomes(options: PretrainOptions, cohort: Cohort, status: Status) -> list[Outcome]:
    failed = [Outcome(image_id, Status.FAILED, reason) for image_id, reason in cohort.failures.items()]
    told = json.loads(options.beside(".json").read_text())
    facts: dict[str, Any] = {"weights": str(options.out), "method": cohort.method, **told["last_epoch"]}
    facts |= {"slides": len(cohort.slides), "patients_seen": len(cohort.lineage.patients_sha256)}
    return [Outcome(options.out.stem, status, facts=facts), *failed]


def _train(
    options: PretrainOptions,
    cohort: Cohort,
    encoder: TimmEncoder,
    setting: Setting,
    group: Group,
    progress: Progress,
) -> None:
    with reproducible_arithmetic():
        views = views_of(options, cohort.method, encoder)
        objective = build_objective(options, cohort.method, encoder, views, setting)
        source = _source(options, cohort, views, setting)
        probe = OnlineProbe(options, cohort.probe, views[0], setting) if cohort.probe else None
        trainer = Trainer(options, cohort, objective, source, probe, setting, progress)
        standing = standing_of(options, cohort.recipe, group)
        if standing is not None:
            trainer.go_on_from(standing)
        images = round(trainer.steps_left * cohort.images_per_epoch / trainer.steps_per_epoch)
        progress.begin(f"pretrain {encoder.spec.name}", images, source.unit)
        backbone = trainer.run()
        if setting.save:
            kept = {"method": cohort.method, "view_px": views[0].size, "epochs": options.epochs}
            write_weights(options, cohort, backbone, trainer.standing, kept)


def _source(options: PretrainOptions, cohort: Cohort, views: list[View], setting: Setting) -> Source:
    if options.from_formula:
        return FormulaImages(options, cohort.images_per_epoch, views, setting.device)
    return TileImages(options, cohort.slides, cohort.tile_px, cohort.images_per_epoch, views, setting.device)
