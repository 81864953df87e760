"""Answers on the model: what it is, how it was trained and chosen, on what, for how long, and how it is used."""

from pathlib import Path

from mil.checklists.known import Answer, Known
from mil.heads import has_attention
from mil.run.record import Record
from wsi.pages import number, plural

_OPTIONAL = {
    "optimizer": "optimiser",
    "sam_rho": "its rho",
    "order": "order",
    "balance": "balance",
    "label_smoothing": "label smoothing",
    "mixup": "mixup",
    "ema": "mean of weights",
    "instance_dropout": "instance dropout",
    "distil_weight": "weight of the teacher",
    "distil_temperature": "its temperature",
    "output": "last layer",
    "other_label": "further slides taken for",
}
"""Settings that stand in the recipe where they are not at their defaults."""


def model(k: Known) -> Answer | None:
    """Tell the layers, as the files of the models do."""
    recipe = k.recipe
    told = (
        f"{k.evidence.title(k.evidence.head)}: {recipe['bags']['dim']} features of each tile, hidden width "
        f"{recipe['hidden']}, attention width {recipe['attention']}, dropout {recipe['dropout']:g}, "
        f"{plural(len(k.evidence.classes), 'output')}"
    )
    count = parameters(k)
    told += "" if count is None else f"; {count:,} numbers in a model, standardisation included"
    return Answer(f"{told}.", f"{k.config}: head, hidden, attention, dropout; fold*/seed*/model.json")


def parameters(k: Known) -> int | None:
    """Return how many numbers the first model holds; None where its weights are not there."""
    from safetensors import SafetensorError, safe_open

    path: Path = k.evidence.run.model(k.evidence.head, 0, 0) / "weights.safetensors"
    try:
        with safe_open(path, framework="np") as file:
            shapes = [file.get_slice(name).get_shape() for name in file.keys()]  # noqa: SIM118
    except (OSError, SafetensorError):
        return None
    total = 0
    for shape in shapes:
        size = 1
        for side in shape:
            size *= side
        total += size
    return total


def standardised(k: Known) -> Answer | None:
    """Tell how features enter."""
    return Answer(
        "Each feature less its mean, over its standard deviation, both of the slides that train the model, every slide "
        "counting alike; cut at 10 deviations.",
        "fold*/seed*/model.json: spec.limit; fold*/seed*/weights.safetensors",
    )


def training(k: Known) -> Answer | None:
    """Tell the settings of the training."""
    own = k.recipe
    told = [f"{name} {own[key]}" for key, name in _OPTIONAL.items() if key in own and key != "optimizer"]
    epochs = plural(own["epochs"], "epoch")
    if own["inner_share"]:
        epochs = f"at most {epochs}, ended after {own['patience']} without a better inner validation loss"
    plain = (
        f"{'AdamW' if own.get('optimizer', 'adamw') == 'adamw' else 'SAM on AdamW'}, learning rate {own['lr']:g} after "
        f"{plural(own['warmup_epochs'], 'epoch')} of warm-up, then a cosine; weight decay {own['weight_decay']:g}, "
        f"gradients cut at {own['clip']:g}, {plural(own['batch_bags'], 'slide')} a step, {epochs}; precision "
        f"{own['precision']}"
    )
    return Answer(f"{'; '.join([plain, *told])}.", f"{k.config}: recipe; fold*/seed*/history.csv")


def selection(k: Known) -> Answer | None:
    """Tell which model is kept."""
    least = "the epoch with the lowest loss on its inner validation patients"
    epoch = f"Of each model {least if k.recipe['inner_share'] else 'the last epoch'}."
    kept = "No model of a fold is chosen before another: all are kept."
    where = "fold*/seed*/model.json: best_epoch"
    if not k.nested:
        return Answer(f"{epoch} {kept}", where)
    heads = ", ".join(k.evidence.title(name) for name in k.nested["candidates"])
    chosen = "; ".join(f"fold {own['fold']}: {k.evidence.title(own['head'])}" for own in k.nested["choices"])
    return Answer(
        f"{epoch} {kept} Of {len(k.nested['candidates'])} heads ({heads}) one was chosen for each fold, by the loss on "
        f"{k.nested['inner_folds']} inner folds of its training patients alone ({chosen}), and over all of these folds "
        f"{k.evidence.title(k.nested['for_new_patients'])} for new patients; what is told as the model's own is that "
        f"of {k.evidence.title(k.evidence.head)}.",
        f"{where}; {k.of_run('nested.json')}",
    )


def ensemble(k: Known) -> Answer | None:
    """Tell what is averaged."""
    folds, each = k.recipe["folds"], k.evidence.run.models_per_fold
    new = f"New patients are told the mean of the logits of all {folds * each} models"
    if k.elsewhere:
        return Answer(f"{new}; so are those of this cohort.", "fold*/seed*/ of the run")
    return Answer(
        f"{new}; out of fold a patient is told the mean of the {plural(each, 'model')} of the own fold, none of which "
        "saw the patient.",
        "fold*/seed*/",
    )


def initialised(k: Known) -> Answer | None:
    """Tell how weights began."""
    own = k.evidence.encoders
    hashes = [str(found["weights_sha256"])[:12] for found in own if found.get("weights_sha256")]
    encoder = f" The encoder's weights stay as they are (sha256 {', '.join(hashes)}...)." if hashes else ""
    return Answer(
        f"At random, by seed {k.recipe['seed']}, fold and number of the model.{encoder}",
        f"{k.config}: seed, about.encoder; fold*/seed*/model.json",
    )


def software(k: Known) -> Answer | None:
    """Tell the versions."""
    found = k.evidence.config["about"].get("versions", {})
    if not found:
        return None
    told = ", ".join(f"{name} {version}" for name, version in found.items())
    return Answer(f"{told}; gigamil is free software (MIT).", f"{k.config}: about.versions")


def compute(k: Known) -> Answer | None:
    """Tell machine, time and energy."""
    told = compute_lines(k.record, _models(k))
    return Answer(" ".join(told), k.of_run("record.json")) if told else None


def _models(k: Known) -> int:
    own = k.recipe
    heads = {own["head"], *own.get("baselines", ())}
    return len(heads) * int(own["folds"]) * k.evidence.run.models_per_fold


def compute_lines(record: Record, models: int) -> list[str]:
    """Return machine, time and energy as sentences; none where nothing was kept. ``models``: of the whole run."""
    if not record.sessions:
        return []
    hardware = record.hardware
    machine = f"{hardware.get('processor', 'an unnamed processor')}, {plural(int(hardware.get('cores') or 0), 'core')}"
    if "gpu" in hardware:
        machine += f", {hardware['gpu']}"
    trained = (
        f"Trained on {machine}, {hardware.get('memory_gib') or 0:g} GiB of memory: {plural(record.models, 'model')} in "
        f"{_time(record.seconds)}, {_time(record.cpu_seconds)} of processor time."
    )
    lines = [trained]
    if record.models < models:
        lines.append(f"{models - record.models} of {models} models were trained by starts that left no record.")
    how = "; or ".join(record.how)
    lines.append(
        f"Energy: {energy_text(record.kwh)} ({how})." if record.kwh is not None else f"Energy: not known ({how})."
    )
    return [*lines, "Tiling and feature extraction are not in these figures."]


def energy_text(kwh: float | None) -> str:
    """Return an energy in kWh, or in Wh where it is small."""
    if kwh is None:
        return number(kwh)
    return f"{kwh:.3g} kWh" if kwh >= 1e-3 else f"{1000 * kwh:.3g} Wh"


def _time(seconds: float) -> str:
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"


def imbalance(k: Known) -> Answer | None:
    """Tell what was done about classes of different size."""
    if not k.evidence.truth.groups:
        return Answer("There are no classes: each patient counts once.", f"{k.config}: target")
    if k.recipe.get("balance") == "sampling":
        return Answer("Slides are drawn so that classes come equally often.", f"{k.config}: balance")
    return Answer(
        "The loss weighs patients so that classes count equally and each patient once.", "calibration.json: class_prior"
    )


def calibrated(k: Known) -> Answer | None:
    """Tell what follows the logits."""
    own = k.evidence.calibration
    if "fitted_on" not in own:
        return Answer(f"What is told is not calibrated. {k.evidence.truth.words.caveat}", "calibration.json: method")
    return Answer(
        f"Calibrated by {own['method']} (temperature {own['temperature']:.2f}), of each fold on the other folds' "
        f"patients. {k.evidence.truth.words.caveat}",
        k.of_run("calibration.json"),
    )


def fairness(k: Known) -> Answer | None:
    """Tell that training knows nothing of groups, and whether they were judged."""
    columns = [str(own["column"]) for own in k.decided.get("subgroups", [])]
    judged = f"Groups by {', '.join(columns)} were judged" if columns else "No groups by further columns were judged"
    return Answer(
        f"The training knows nothing of groups of patients. {judged}.",
        k.decisions("subgroups") if columns else k.config,
    )


def output(k: Known) -> Answer | None:
    """Tell what is told."""
    words = k.evidence.truth.words
    return Answer(f"{words.row} {words.caveat}", f"{k.scores}; {k.of_run('calibration.json')}")


def cuts(k: Known) -> Answer | None:
    """Tell how cuts were chosen."""
    questions = k.decided.get("questions", [])
    if not questions:
        return None
    rules = ", ".join(str(own["rule"]) for own in questions[0]["operating"])
    on = "the run's own patients" if k.elsewhere else "the patients of the other folds"
    return Answer(f"Cuts by {rules}, each chosen on {on}.", k.decisions("questions"))


def usable(k: Known) -> Answer | None:
    """Tell what is needed to use the model."""
    licences = [str(own["licence"]) for own in k.evidence.encoders if own.get("licence")]
    more = f" The encoder's weights: {', '.join(licences)}." if licences else ""
    return Answer(
        f"The run folder holds all weights; `gigamil predict RUN SLIDES` asks them.{more}",
        "fold*/seed*/weights.safetensors; model_card.md",
    )


def computed(k: Known) -> Answer | None:
    """Tell how predictions of the other cohort came about."""
    formula = k.evidence.run.predicts.formula
    from mil.targets.calibration import calibration_of

    told = formula(calibration_of(k.evidence.calibration), len(k.evidence.classes))
    return Answer(
        f"By all models of the run, as `gigamil predict` does: {told}.", "calibration.json of the run; scores.csv"
    )


def poor_input(k: Known) -> Answer | None:
    """Tell what the software does with input that it cannot use."""
    told = "A slide that cannot be read fails by name with its reason; one without tissue is told "
    told += f"{k.evidence.truth.words.nobody}."
    if (k.evidence.run.path / "known.safetensors").exists():
        told += " Slides unlike all that were trained on are named."
        return Answer(told, "known.safetensors")
    return Answer(told, k.config)


def explained(k: Known) -> Answer | None:
    """Tell what is shown of why."""
    if not has_attention(k.evidence.head):
        return Answer("Not explained: all tiles weigh alike.", f"{k.config}: head")
    drawn = " and compared with drawn regions" if k.regions else "; not compared with anything drawn"
    return Answer(
        f"By attention, drawn as heat maps (`gigamil heatmap`){drawn}. It says where the model looked, no more.",
        "report.html, Against regions" if k.regions else f"{k.config}: head",
    )
