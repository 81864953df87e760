"""What a fine-tuning leaves beside the weights of `features.learning.weights_file`.

<stem>.head.safetensors    the classifier on its features: weight (C, D), bias (C)
<stem>.splits.csv
"""

import json
from typing import Any

from features.finetune.cohort import Cohort
from features.finetune.model import TileClassifier
from features.finetune.options import FinetuneOptions
from features.learning.checkpoint import Standing
from features.learning.weights_file import metadata_of, write_weights
from features.tensors import packed
from wsi.files.atomic import write_bytes, write_text


def write_results(options: FinetuneOptions, cohort: Cohort, model: TileClassifier, standing: Standing) -> None:
    """Write everything, the weights last; then remove the checkpoint."""
    write_bytes(options.beside(".head.safetensors"), packed(model.head.state_dict(), metadata_of(cohort)))
    write_text(options.beside(".splits.csv"), cohort.splits_table)
    kept = standing.best_epoch if options.keep == "best" else options.epochs
    write_weights(options, cohort, model.backbone, standing, {"classes": list(cohort.classes), "kept_epoch": kept})


def last_facts(options: FinetuneOptions) -> dict[str, Any]:
    """Return what the summary tells of finished weights."""
    facts = json.loads(options.beside(".json").read_text())
    return {"kept_epoch": facts["kept_epoch"], "fold": facts["lineage"]["fold"], **facts["last_epoch"]}
