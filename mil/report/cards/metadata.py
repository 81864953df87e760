"""The model card's metadata, as the Hugging Face Hub reads it: the YAML block that the card begins with.

Names and values are those of `huggingface_hub.ModelCardData`. No text from outside goes into it.
"""

from mil.run.evidence import Evidence

TYPES = {"auc": "roc_auc", "mae": "mae", "average_precision": "average_precision"}
"""The Hub's name of a metric that it knows, where it is the same; others keep ours."""
_TASKS = {"classes": "image-classification", "labels": "image-classification"}
"""The Hub's name of a target; there is none for the others."""


def metadata(evidence: Evidence) -> str:
    """Return the YAML block with its two lines of dashes.

    The licence is ``unknown``: whoever publishes the model chooses it.
    """
    from huggingface_hub import EvalResult, ModelCardData

    kind, truth = evidence.run.predicts.kind, evidence.truth
    task, where = _TASKS.get(kind, "other"), "test" if evidence.elsewhere else "out-of-fold"
    results = [
        EvalResult(
            task_type=task,
            task_name=f"{kind} of whole-slide images",
            dataset_type="private",
            dataset_name="the run's own patients, each told by models that had not seen the patient",
            dataset_split=where,
            metric_type=TYPES.get(key, key),
            metric_name=name,
            metric_value=round(float(evidence.own[key]["value"]), 6),
        )
        for key, (name, _) in truth.metrics.items()
        if key in evidence.own and evidence.own[key]["value"] is not None
    ]
    data = ModelCardData(
        license="unknown",
        library_name="gigamil",
        pipeline_tag=_TASKS.get(kind),
        tags=["gigamil", "whole-slide-image", "multiple-instance-learning", "computational-pathology"],
        metrics=list(dict.fromkeys(own.metric_type for own in results)) or None,
        model_name=f"gigamil-{evidence.config['recipe_hash'][:12]}",
        eval_results=results or None,
    )
    return f"---\n{data.to_yaml()}\n---"
