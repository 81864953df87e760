"""Answers on the data: who took part, what was read of the slides, what is asked for, how it was divided."""

from mil.checklists.known import Answer, Known
from mil.data.flow import LeftOut
from mil.run.protocol import WHOLE_CENTERS, divided, put_together
from wsi.pages import plural


def study(k: Known) -> Answer | None:
    """Tell the kind of study."""
    if k.elsewhere:
        return Answer(
            "A finished model is judged on another cohort (external validation); it is not changed.", "report.html"
        )
    return Answer(
        f"A model is made and validated within its cohort, by {k.recipe['folds']} folds.", f"{k.config}: folds"
    )


def technology(k: Known) -> Answer | None:
    """Tell the kind of AI."""
    head, encoder = (
        k.evidence.title(k.evidence.head),
        k.recipe["bags"]["encoder"] or "an encoder that the bags do not name",
    )
    return Answer(
        f"Multiple-instance learning: {head} on tile features by {encoder}.", f"{k.config}: head, bags.encoder"
    )


def outcome(k: Known) -> Answer | None:
    """Tell what is predicted, as far as the table says."""
    column, words = k.evidence.run.predicts.column, k.evidence.truth.words
    kind, classes = k.evidence.run.predicts.kind, words.joint.join(k.evidence.classes)
    told = (
        f"Column {column} of the cohort's table, as {kind}: {classes}."
        if k.evidence.truth.groups
        else (f"Column {column} of the cohort's table, as {kind}.")
    )
    return Answer(told, f"{k.config}: target, classes; {k.scores}")


def centers(k: Known) -> Answer | None:
    """Tell the number of centers."""
    names = [own["center"] for own in k.evidence.metrics["centers"] if own["center"] != "(none)"]
    if not names:
        return None
    return Answer(
        f"{len(names)} by the table's center_id: {', '.join(names[:12])}{' ...' * (len(names) > 12)}.",
        k.metrics("centers"),
    )


def by_center_counts(k: Known) -> Answer | None:
    """Tell the patients of each center."""
    found = k.evidence.metrics["centers"]
    if [own["center"] for own in found] == ["(none)"]:
        return None
    truth, names = k.evidence.truth, k.evidence.classes
    each = [f"{own['center']}: {own['patients']} ({_counted(truth.carried(own, names))})" for own in found[:12]]
    return Answer(
        f"{k.unit.capitalize()}s by center: {'; '.join(each)}{' ...' * (len(found) > 12)}.", k.metrics("centers")
    )


def _counted(carried: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in carried.items())


def eligible(k: Known) -> Answer | None:
    """Tell what the software itself asks of a slide."""
    column = k.evidence.run.predicts.column
    told = f"Slides of the table with something under {column} and a bag of features"
    if k.elsewhere:
        told += ", of patients whom the run was not trained on (by id, picture and features)"
    return Answer(f"{told}.", k.flow_at)


def flow(k: Known) -> Answer | None:
    """Tell the flow of patients."""
    if k.flow is None:
        return None
    own = k.flow
    told = [f"{_both(own.patients, own.slides)} in the table"]
    told += [f"left out: {_gone(step)}" for step in own.left_out]
    told.append(f"{_both(own.patients_left, own.slides_left)} in the cohort")
    told += [f"of them {_gone(step)}" for step in own.unjudged]
    told.append(f"{k.evidence.scored} {k.unit}s count in the results ({_counted(k.evidence.carried())} in the cohort)")
    return Answer(f"{'; '.join(told)}.", k.flow_at)


def _both(patients: int, slides: int) -> str:
    return f"{plural(patients, 'patient')} with {plural(slides, 'slide')}"


def _gone(step: LeftOut) -> str:
    gone = f" ({plural(step.patients, 'patient')} with no other)" if step.patients else ""
    return f"{plural(step.slides, 'slide')}, as {step.why}{gone}"


def missing(k: Known) -> Answer | None:
    """Tell how missing data were dealt with."""
    words, truth = k.evidence.truth.words, k.evidence.truth
    told = "Slides without truth or without a bag are left out; nothing is imputed. "
    told += (
        f"{k.unit.capitalize()}s without a usable tile stay in the results, told {words.nobody}."
        if truth.counts_unjudged
        else f"{k.unit.capitalize()}s without a usable tile are told {words.nobody}, and do not count in the results."
    )
    return Answer(told, f"{k.flow_at}; {k.metrics('failures')}")


def sizes(k: Known) -> Answer | None:
    """Tell the size that there is, and whether it is small."""
    metrics = k.evidence.metrics
    slides = plural(metrics["slides"], "slide")
    told = f"{plural(metrics['patients'], k.unit)}, {slides}; {_counted(k.evidence.carried())}."
    few = [line for line in k.evidence.warnings() if line.startswith("so few patients")]
    return Answer(" ".join([told, *(f"{line[:1].upper()}{line[1:]}." for line in few)]), k.metrics("patients"))


def used(k: Known) -> Answer | None:
    """Tell who served for what."""
    if k.elsewhere:
        return Answer(
            f"{k.evidence.scored} {k.unit}s ({_counted(k.evidence.carried())}) were tested; none of them trained "
            "anything.",
            k.metrics("patients"),
        )
    each = [f"fold {own.fold}: {own.train.text} / {own.inner.text} / {own.test.text}" for own in k.use]
    return Answer(
        f"{k.unit.capitalize()}s that trained / chose the epoch / were tested: {'; '.join(each)}.",
        "report.html, Who took part; splits.csv; fold*/seed*/scores.csv",
    )


def preparing(k: Known) -> Answer | None:
    """Tell what was made of the slides before the encoder."""
    own, scales = k.tiling, k.evidence.config["about"].get("bag_scales") or []
    if not own:
        return None
    sides = ", ".join(f"{scale['tile_px']:g} px at {scale['mpp']:g} um/px" for scale in scales if scale["mpp"])
    told = [
        f"Tissue was found on the overview; tiles of {sides or 'one scale'}"
        if sides
        else "Tissue was found on the overview"
    ]
    told.append(f"tiles with less than {own['min_tissue']:.0%} tissue left out" if "min_tissue" in own else "")
    told.append(f"left out by score: {', '.join(own['drop'])}" if own.get("drop") else "")
    told.append(f"stain: {k.bags['stain']}" if k.bags.get("stain") else "")
    return Answer(f"{'; '.join(filter(None, told))}.", f"{k.config}: about.bag_recipe, about.bag_scales")


def scale(k: Known) -> Answer | None:
    """Tell the scale at which slides were read."""
    scales = [own for own in k.evidence.config["about"].get("bag_scales") or [] if own["mpp"]]
    if not scales:
        return None
    told = ", ".join(f"{own['mpp']:g} um/px" for own in scales)
    return Answer(f"Slides were read at {told}.", f"{k.config}: about.bag_scales")


def selected(k: Known) -> Answer | None:
    """Tell which parts of the slides entered."""
    own = k.tiling
    if not own:
        return None
    drawn = f"within drawn regions ({own['roi']})" if own.get("roi") else "all tissue of the slide"
    most = k.recipe.get("max_tiles") or 0
    told = f"Tiles of {drawn}" + (f"; {most} drawn anew from each bag in every epoch" if most else "; all of a slide's")
    more = f"; selection: {k.bags['select']}" if k.bags.get("select") else ""
    return Answer(f"{told}{more}.", f"{k.config}: about.bag_recipe.tiling, max_tiles")


def drawn(k: Known) -> Answer | None:
    """Tell whether a person's judgement is in the predictors."""
    if not k.tiling:
        return None
    if k.tiling.get("roi"):
        return Answer("People drew the regions that tiles were taken from.", f"{k.config}: about.bag_recipe.tiling.roi")
    return Answer(
        "Nobody judges predictors: features are computed of all tissue, which is found by the software.",
        f"{k.config}: about.bag_recipe",
    )


def predictors(k: Known) -> Answer | None:
    """Tell what enters the model."""
    made = k.recipe["bags"]
    name = made["encoder"] or "an encoder that the bags do not name"
    return Answer(
        f"{made['dim']} numbers of each tile, by {name}; no other column of the table enters the model. "
        "This run chose none among them.",
        f"{k.config}: bags",
    )


def measured(k: Known) -> Answer | None:
    """Tell whether the encoder knew the outcome."""
    if any("lineage" in own for own in k.evidence.encoders):
        return Answer(
            "The encoder was fine-tuned on labelled patients; those whom it saw are tested by no fold.",
            f"{k.config}: about.encoder",
        )
    return Answer(
        "Features are computed without a look at the table's outcome. Whether an encoder's own training held slides of "
        "these patients is not told.",
        f"{k.config}: bags, about.encoder",
    )


def partitions(k: Known) -> Answer | None:
    """Tell how patients were divided."""
    if k.elsewhere:
        return Answer("All of this cohort is tested: it is not divided, and nothing is fitted on it.", "report.html")
    how = {
        "given": "The division was given as a table (--splits).",
        "drawn": f"The division was made by the software, by seed {k.recipe['seed']}.",
    }.get(k.record.division, "")
    told = " ".join(filter(None, (divided(k.recipe), how, put_together(k.recipe), _balance(k))))
    where = f"{k.config}: folds, seed; splits.csv"
    return Answer(told, f"{where}; {k.uncertainties('balance')}" if k.spread.get("balance") else where)


def _balance(k: Known) -> str:
    """Return how alike the folds are in the shares of the classes, where there are any."""
    parts = [
        f"{own['class']} {100 * own['least']:.0f} to {100 * own['most']:.0f} % ({100 * own['share']:.0f} % of all)"
        for own in k.spread.get("balance") or ()
    ]
    return f"Folds hold {', '.join(parts)}." if parts else ""


def inner(k: Known) -> Answer | None:
    """Tell who chose the epoch."""
    if k.elsewhere:
        return Answer("Nothing was chosen on this cohort.", "report.html")
    if not k.recipe["inner_share"]:
        return Answer("All of a fold's training patients train; the last epoch is kept.", f"{k.config}: inner_share")
    return Answer(
        f"Of each fold's training patients {k.recipe['inner_share']:.0%} (whole patients) train nothing and choose the "
        "epoch.",
        f"{k.config}: inner_share; fold*/seed*/scores.csv",
    )


def disjoint(k: Known) -> Answer | None:
    """Tell at which level parts do not overlap."""
    if k.elsewhere:
        left = f" Left out: {'; '.join(k.elsewhere.overlap)}." if k.elsewhere.overlap else " None was found."
        return Answer(
            f"Patients whom the run was trained on were looked for by id, by picture and by features.{left}",
            "evaluation.json: left_out",
        )
    level = "center" if k.recipe.get("split") in WHOLE_CENTERS else "patient"
    return Answer(
        f"The {level}: all slides of a {level} are in one fold. One picture or bag under two patients is refused.",
        "splits.csv: patient_id, fold, overview_sha256",
    )


def shifted(k: Known) -> Answer | None:
    """Tell how the other cohort differs; within one cohort nothing does."""
    if k.elsewhere is None:
        return Answer("Those trained on and those tested are of one cohort, in turns.", "splits.csv")
    if not k.elsewhere.shift:
        return None
    shift = k.elsewhere.shift
    beside = ["features", *(name for key, name in (("mpp", "um/px"), ("stain", "stain")) if shift.get(key))]
    return Answer(
        f"{', '.join(beside).capitalize()}, centers and classes stand side by side; the median feature moved by "
        f"{shift['features']['moved_median']:.2f} of its spread.",
        "evaluation.json: shift; report.html, Against the training's cohort",
    )


def grouped(k: Known) -> Answer | None:
    """Tell the further columns of the table, where they were given."""
    columns = [str(own["column"]) for own in k.decided.get("subgroups", [])]
    if not columns:
        return None
    return Answer(f"{k.unit.capitalize()}s by {', '.join(columns)}.", k.decisions("subgroups"))
