"""`gigamil export RUN`: the models of a run for other programs, or leaner, with what it costs measured.

Every form is one file a model, ``<form>/fold<f>_seed<s>``, and an entry in ``export.json``: bytes and CPU milliseconds
a slide beside those of the original, and for forms that lose something the patients' AUC on the out-of-fold slides
before and after. ``--onnx`` also gives ``run.onnx``, the whole run as one graph, with ``run.md``, its card. A graph
that does not agree with its model is refused.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mil.data.several_encoders import APART
from mil.inference.options import RunExportOptions
from mil.inference.portable.graph import TOLERANCE, Predict, largest_difference, save_exported, save_onnx, torch_predict
from mil.inference.portable.leaner import OwnSlides, Scored, measured, own_slides, save_int8, save_pruned
from mil.inference.portable.one_graph import facts, save_card, save_run
from mil.models.ensemble import Ensemble, load_ensemble
from mil.models.model import BagModel
from mil.run.folder import RunFolder
from mil.run.outputs import Tables
from wsi.errors import RequestError
from wsi.files.atomic import check_folder
from wsi.files.claim import claim
from wsi.files.regular import file_sha256
from wsi.options import stage
from wsi.progress.outcome import Outcome, Progress, Silent, Status, Summary
from wsi.recipe import Json, refuse_other_recipe

MARK = "gigamil-export-1"
"""``format`` of export.json."""


@dataclass(frozen=True, slots=True)
class _Form:
    """One of the forms that a model can have."""

    endings: tuple[str, ...]
    """Of the files of a model, the largest first."""
    write: Callable[[BagModel, Path, RunExportOptions], tuple[Predict, Json]]
    """Write the model into files of this name; return what they predict, and more about them."""
    exact: bool
    """Whether logits are to agree within rounding."""


_FORMS: Mapping[str, _Form] = {
    "onnx": _Form((".onnx",), lambda model, path, _: (save_onnx(model, path.with_suffix(".onnx")), {}), True),
    "torch_export": _Form((".pt2",), lambda model, path, _: (save_exported(model, path.with_suffix(".pt2")), {}), True),
    "int8": _Form((".onnx",), lambda model, path, _: (save_int8(model, path.with_suffix(".onnx")), {}), False),
    "pruned": _Form(
        ("/weights.safetensors", "/model.json"),
        lambda model, path, options: save_pruned(model, path, options.prune or 0.0),
        False,
    ),
}


@stage
def export_run(options: RunExportOptions, progress: Progress | None = None) -> Summary:
    """Write the models in the forms asked for, and export.json.

    Raises
    ------
    RequestError
        The run is not finished, its head cannot be exported, or the bags are not those of the run.
    """
    start, progress = time.monotonic(), progress or Silent()
    run = RunFolder(options.run)
    check_folder(options.out)
    if run.fusion in APART:
        raise RequestError(f"{run.path} fuses encoders ({run.fusion}): its models do not take the same bags")
    if options.bags:
        run.check_classes("AUC before and after an export (--bags)")
    with claim(options.out):
        slides = own_slides(run, options.bags) if options.bags else None
        left = _left(options, run, slides)
        if not left:
            return Summary("export", [Outcome(str(options.out), Status.SKIPPED)], time.monotonic() - start)
        ensemble = load_ensemble(run, "cpu")
        progress.begin("export", len(left) * len(ensemble.members), "models")
        told, sums = _begun(options, run, left)
        told |= {"classes": list(run.classes), "calibration": ensemble.calibration.as_dict()}
        for form in left:
            files = _files(options, run, form)
            _tables(options, files).vouch(_recipe(run), told, sums)  # from here on the form's files are ours
            told[form] = _one_form(form, options, ensemble, slides, progress)
            sums |= {path: file_sha256(path) for path in files}
        progress.end()
        _tables(options, ()).vouch(_recipe(run), told, sums)
    about = {form: told[form]["summary"] for form in options.forms}
    return Summary("export", [Outcome(str(options.out), Status.DONE, facts=about)], time.monotonic() - start)


def _recipe(run: RunFolder) -> Json:
    return {"run": run.config["recipe_hash"]}


def _tables(options: RunExportOptions, files: Sequence[Path]) -> Tables:
    return Tables(options.out / "export.json", tuple(files), MARK)


def _files(options: RunExportOptions, run: RunFolder, form: str) -> list[Path]:
    """Return every file of a form."""
    folds = range(int(run.recipe["folds"]))
    names = [f"fold{fold}_seed{seed}" for fold in folds for seed in range(run.models_per_fold)]
    whole = [options.out / "run.onnx", options.out / "run.md"] if form == "onnx" else []
    return whole + [options.out / form / f"{name}{ending}" for name in names for ending in _FORMS[form].endings]


def _left(options: RunExportOptions, run: RunFolder, slides: OwnSlides | None) -> list[str]:
    """Return the forms that are not there, whole, from this run, and measured where bags are given."""
    left = []
    for form in options.forms:
        found = _tables(options, _files(options, run, form)).earlier(_recipe(run), overwrite=options.overwrite)
        there = found.get(form) if found else None
        if form == "pruned" and there and there["share"] != options.prune:
            if not options.overwrite:
                refuse_other_recipe(options.out, {"prune": there["share"]}, {"prune": options.prune})
            there = None
        if there is None or (slides and there["summary"].get("measured_on") != slides.digest):
            left.append(form)
    return left


def _begun(options: RunExportOptions, run: RunFolder, left: Sequence[str]) -> tuple[Json, dict[Path, str]]:
    """Return what export.json tells of the forms that stay, and the sums of their files."""
    found = _tables(options, ()).told()
    if found is None or found["recipe"] != _recipe(run):
        return {}, {}
    told = {form: found[form] for form in _FORMS if form in found and form not in left}
    kept = {path for form in told for path in _files(options, run, form)}
    sums = {options.out / name: str(own) for name, own in found["sha256"].items()}
    return told, {path: own for path, own in sums.items() if path in kept}


def _one_form(
    form: str, options: RunExportOptions, ensemble: Ensemble, slides: OwnSlides | None, progress: Progress
) -> Json:
    """Write one form of every model; return what it is like."""
    run, kind = ensemble.run, _FORMS[form]
    models: dict[str, Json] = {}
    before: list[Scored] = []
    after: list[Scored] = []
    for member in ensemble.members:
        name = f"fold{member.fold}_seed{member.seed}"
        path = options.out / form / name
        own = torch_predict(member.model)
        made, more = kind.write(member.model, path, options)
        apart = largest_difference(own, made, member.model.spec.dim)
        if kind.exact and not apart <= TOLERANCE:
            raise RequestError(f"{path}: its logits differ from the model's by {apart:.2g}: expected {TOLERANCE:g}")
        weights = run.model(run.head, member.fold, member.seed) / "weights.safetensors"
        models[name] = {
            "largest_logit_difference": apart,
            "bytes": Path(f"{path}{kind.endings[0]}").stat().st_size,
            **more,
            "bytes_of_the_run": weights.stat().st_size,
        }
        before.append((member.fold, own))
        after.append((member.fold, made))
        progress.advance(1)
    summary: Json = {key: sum(model[key] for model in models.values()) for key in ("bytes", "bytes_of_the_run")}
    if slides is not None:
        summary |= {**measured(before, after, slides, run), "measured_on": slides.digest}
    about: Json = {"share": options.prune} if form == "pruned" else {}
    if form == "onnx":
        apart = save_run(ensemble, options.out / "run.onnx")
        save_card(ensemble, options.out / "run.md")
        about["run"] = {**facts(run, ensemble.calibration), "largest_difference": apart}
    return {"summary": summary, "models": models, **about}
