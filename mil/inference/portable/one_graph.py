"""A whole run as one ONNX file that gives what `gigamil predict` tells, and the card that says how to use it.

The graph takes one bag, ``rows`` float32 (n, D) of raw features. It gives ``logits`` (C,), the mean over the run's
models of their logits (of classes each model's centred), and what is told of them (C,): calibrated probabilities,
values, or risks.
"""

import json
import re
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from mil.inference.portable.graph import OneBag, Predict, largest_difference, onnx_predict, write_onnx
from mil.models.ensemble import Ensemble, makings_of
from mil.run.folder import RunFolder
from mil.targets.calibration import Calibration
from wsi.errors import RequestError
from wsi.files.atomic import replacing, write_text

TOLERANCE = 1e-5
"""Largest difference of what is told; of values and risks as a share of the largest."""


class OneRun(nn.Module):
    """All models of a run and its calibration, asked about the rows of one bag."""

    def __init__(self, ensemble: Ensemble) -> None:
        super().__init__()
        self.models = nn.ModuleList(OneBag(member.model) for member in ensemble.members)
        self.target, self.calibration = ensemble.run.predicts, ensemble.calibration

    def forward(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits (C,) and what is told of them (C,)."""
        return self.target.in_graph(torch.stack([model(rows) for model in self.models]), self.calibration)


def save_run(ensemble: Ensemble, path: Path) -> float:
    """Write the graph; return by how much it differs from the run's own answers on made-up bags, in float32.

    Raises
    ------
    RequestError
        It differs by more than `TOLERANCE`, or the head is no single graph.
    """
    first, told = ensemble.members[0].model, ensemble.run.predicts.words.told
    write_onnx(OneRun(ensemble).eval(), first, path, ("logits", told))
    apart = largest_difference(_told_by_run(ensemble), onnx_predict(path, told), first.spec.dim)
    size = 1.0 if told == "probabilities" else max(1.0, abs(first.spec.scale), abs(first.spec.shift))
    if not apart <= TOLERANCE * size:
        raise RequestError(f"{path}: its {told} differ from the run's by {apart:.2g}: expected {TOLERANCE * size:g}")
    _describe(path, ensemble.run, ensemble.calibration)
    return apart


def _told_by_run(ensemble: Ensemble) -> Predict:
    exact = replace(ensemble, compute=replace(ensemble.compute, precision="fp32"))
    return lambda rows: exact.told(exact.logits([rows]))[0]


_SLIDES = {
    "mean": "average the `logits` of a patient's slides, then apply the formula",
    "max": "take each class's highest of the `logits` of a patient's slides, then apply the formula",
    "bag": "give the rows of all slides of a patient as one bag",
}


def facts(run: RunFolder, calibration: Calibration) -> dict[str, str]:
    """Return what a user of the graph must know, as text."""
    made = makings_of(run)
    scales = [f"{own.mpp:g} um/px, tiles of {own.tile_px:g} px" for own in made if own.mpp > 0]
    encoders = [f"{own.encoder or 'not told by the bags'} ({own.dim} features)" for own in made]
    told, n_outputs, dim = run.predicts.words.told, len(run.classes), sum(own.dim for own in made)
    return {
        "classes": json.dumps(list(run.classes), ensure_ascii=False),
        "target": run.predicts.kind,
        "encoder": ", then side by side with it ".join(encoders),
        "scale": "; ".join(dict.fromkeys(scales)) or "not told by the bags",
        "input": f"rows: float32 (tiles, {dim}), one slide's raw features, 1 tile or more; standardised inside",
        "outputs": f"logits: float32 ({n_outputs},); {told}: float32 ({n_outputs},), in the order of the classes",
        "formula": f"{told} = {run.predicts.formula(calibration, n_outputs)}",
        "several slides": _SLIDES[str(run.recipe.get("aggregate", "mean"))],
        "run": run.config["recipe_hash"],
        "features": run.recipe["bags"]["recipe_hash"],
    }


def _describe(path: Path, run: RunFolder, calibration: Calibration) -> None:
    """Write the facts into the file's own metadata, too."""
    import onnx

    graph = onnx.load(path)
    onnx.helper.set_model_props(graph, facts(run, calibration))
    with replacing(path) as temporary:
        onnx.save(graph, temporary)


def save_card(ensemble: Ensemble, path: Path) -> None:
    """Write the card, Markdown, of the graph beside it."""
    run = ensemble.run
    told = run.predicts.words.told
    precision = str(run.recipe["precision"])
    own = "" if precision == "fp32" else f" It computes in float32; `gigamil predict` follows the run's {precision}."
    items = [f"- **{name}**: {_code(value)}" for name, value in facts(run, ensemble.calibration).items()]
    lines = [
        "# One graph of a whole run",
        "",
        (
            f"The mean of the logits of {len(ensemble.members)} models of the head {run.head}, and the {told} that "
            f"`gigamil predict` tells of them.{own}"
        ),
        "",
        *items,
        "",
        (
            "A slide without tiles has no answer; `gigamil predict` gives it what is said of nobody in particular "
            "(of classes equal probabilities)."
        ),
        "",
        "```python",
        "import onnxruntime",
        f'session = onnxruntime.InferenceSession("{path.with_suffix(".onnx").name}")',
        f'logits, {told} = session.run(["logits", "{told}"], {{"rows": rows}})',
        "```",
        "",
        "For research. Not a medical device; not for diagnosis.",
        "",
    ]
    write_text(path, "\n".join(lines))


def _code(value: str) -> str:
    """Return text so that Markdown shows it as it is."""
    text = " ".join(value.split())
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence} {text} {fence}" if "`" in text else f"`{text}`"
