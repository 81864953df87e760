"""How a run was made and what weakens it, in sentences that are written from its recipe."""

from collections.abc import Mapping
from typing import Any

FEW_PATIENTS = 10
"""Of a class, below which a reader is warned."""
WHOLE_CENTERS = ("centers", "preserved-site")
"""Splits whose folds hold whole centers."""


def divided(recipe: Mapping[str, Any]) -> str:
    """Return how the patients were divided for the cross-validation."""
    if recipe.get("split") in WHOLE_CENTERS:
        return (
            f"Whole centers were divided into {recipe['folds']} groups; each group was scored by models trained on the "
            "other groups only, and no patient and no center stands on both sides."
        )
    return (
        f"Patients were divided into {recipe['folds']} groups; each group was scored by models trained on the other "
        "groups only, and no patient stands on both sides."
    )


_SLIDES = {
    "mean": "A patient with several slides gets the mean of their logits.",
    "max": "A patient with several slides gets, for each class, the highest of their logits.",
    "bag": "The tiles of all slides of a patient form one bag.",
}


def put_together(recipe: Mapping[str, Any]) -> str:
    """Return how a patient with several slides is scored."""
    if recipe.get("unit") == "slide":
        return "Each slide is judged by itself; those of one patient stand in one group."
    return _SLIDES[str(recipe.get("aggregate", "mean"))]


def split_by(recipe: Mapping[str, Any]) -> str:
    """Return by what the folds were split, for a card."""
    if recipe.get("split") in WHOLE_CENTERS:
        return "Split by center: all patients of one are in one fold (splits.csv)."
    return "Split by patient, balanced on label and center (splits.csv)."


def of_unit(text: str, unit: str) -> str:
    """Return what is said of patients as it is true where each slide is judged by itself."""
    return text if unit == "patient" else text.replace("patient", "slide").replace("Patient", "Slide")


def about_encoder(encoder: Mapping[str, Any]) -> list[str]:
    """Return what a reader must know of the encoder of the bags."""
    if encoder.get("caution"):
        return [str(encoder["caution"])]
    if encoder.get("trained") is False:
        return [f"the encoder is not trained: {encoder.get('description', 'its weights are random')}"]
    return []


def about_few(counts: Mapping[str, int], what: str) -> list[str]:
    """Return the warning that so few carry the result; ``what`` is expected in place of these."""
    few = [f"{name}: {count}" for name, count in counts.items() if count < FEW_PATIENTS]
    if not few:
        return []
    line = f"so few patients ({', '.join(few)}) carry the result that intervals from resampling are too narrow"
    return [f"{line}: expected {FEW_PATIENTS} or more {what}"]


def about_probe(probe: Mapping[str, Any] | None, recipe: Mapping[str, Any]) -> list[str]:
    """Return the warning that the features tell the center, where they do beyond chance."""
    if not probe or probe["balanced_accuracy"]["low"] is None or probe["balanced_accuracy"]["low"] <= probe["chance"]:
        return []
    advice = (
        "whole centers were held out, so the result does not rest on those it was tested on"
        if recipe.get("split") in WHOLE_CENTERS
        else "hold out whole centers (--split centers) to see what remains"
    )
    found = f"balanced accuracy {probe['balanced_accuracy']['value']:.2f}, chance {probe['chance']:.2f}"
    return [f"the features tell the center ({found}): {advice}"]
