"""Answers on the results: measures with intervals, clusters, groups, failures, limits, other cohorts."""

from mil.checklists.known import Answer, Known
from mil.run.cases import judged_patients
from mil.run.evidence import CHOSEN
from mil.run.protocol import WHOLE_CENTERS
from wsi.pages import number
from wsi.recipe import Json


def measures(k: Known) -> Answer | None:
    """Tell what was measured and drawn."""
    truth = k.evidence.truth
    names = [name for key, (name, _) in truth.metrics.items() if key in k.evidence.own]
    more = ", calibration, net benefit, sets of classes, answers held back" if k.decided.get("questions") else ""
    return Answer(f"{', '.join(names)}, each with its interval{more}.", f"{k.metrics('models')}; report.html, Curves")


def uncertainty(k: Known) -> Answer | None:
    """Tell how intervals were made."""
    draws = k.evidence.metrics["bootstrap"]
    told = [
        f"{draws['interval']} intervals over {draws['replicates']} draws of patients, the models staying as they are."
    ]
    where = [k.metrics("bootstrap")]
    if not k.elsewhere and not (k.spread.get("repeats") or k.spread.get("folds")):
        told.append("What models trained anew would add is not in them (--repeats tells it).")
    for key, line in _apart(k):
        told.append(line)
        where.append(k.uncertainties(key))
    return Answer(" ".join(told), "; ".join(where))


def _apart(k: Known) -> list[tuple[str, str]]:
    """Return the field and a sentence of every other uncertainty of the metric that compares patients."""
    found: list[tuple[str, str]] = []
    folds, repeats = k.spread.get("folds"), k.spread.get("repeats")
    name = k.evidence.truth.metrics[k.spread["metric"]][0] if k.spread else ""
    if folds and k.elsewhere:
        line = f"The models of each fold of the training by themselves: {name} {_range(folds)}."
        found.append(("folds", line))
    elif folds and folds["low"] is not None:
        how = f"over the {folds['folds']} folds, by the corrected resampled t"
        found.append(("folds", f"Other training sets: {name} {_estimate(folds)} {how}."))
    if repeats:
        line = f"{repeats['repeats']} repeats with other divisions and seeds: {name} {_range(repeats)}."
        found.append(("repeats", line))
    looks = k.spread.get("looks") or {}
    if looks.get("p") is not None:
        line = f"That {name} is above chance: p {_p(looks['p'])}, one-sided, {looks['deals']:,} deals of the answers"
        corrected = f", and {_p(looks['corrected_p'])} corrected for {looks['runs']} looks (Bonferroni)"
        found.append(("looks", f"{line}{corrected if looks['runs'] > 1 else ''}."))
    return found


def _range(found: Json) -> str:
    return f"from {number(found['least'])} to {number(found['most'])}"


def _p(p: float) -> str:
    return "below 0.002" if p < 0.002 else number(p)


def looked(k: Known) -> Answer | None:
    """Tell how many runs of these patients are known: settings may have been chosen among them."""
    looks = k.spread.get("looks") or {}
    if not looks or k.elsewhere:
        return None
    if looks["runs"] > 1:
        told = f"{looks['runs']} runs of these {k.unit}s and this target stand in the same folder"
    else:
        told = f"No other run of these {k.unit}s and this target stands in the same folder"
    return Answer(f"{told}; those that were deleted or lie elsewhere are not known.", k.uncertainties("looks"))


def performance(k: Known) -> Answer | None:
    """Tell the metrics of the run's own head."""
    truth, own = k.evidence.truth, k.evidence.own
    told = [f"{name} {_estimate(own[key])}" for key, (name, _) in truth.metrics.items() if key in own]
    chance = ""
    if not k.evidence.above_chance(k.spread):
        chance = " It is not shown to be better than chance."
    where, chosen = k.metrics(f"models.{k.evidence.head}"), k.evidence.metrics["models"].get(CHOSEN)
    if chosen:
        first = truth.shown[0]
        chance += f" {k.evidence.title(CHOSEN)}: {truth.metrics[first][0]} {_estimate(chosen[first])}."
        where += f"; {k.metrics(f'models.{CHOSEN}')}"
    return Answer(f"{'; '.join(told)}.{chance}", where)


def _estimate(found: Json) -> str:
    return f"{number(found['value'])} ({number(found['low'])} to {number(found['high'])})"


def grouped_performance(k: Known) -> Answer | None:
    """Tell the groups by columns, where they were judged."""
    found = k.decided.get("subgroups", [])
    if not found:
        return None
    return Answer(f"By {', '.join(str(own['column']) for own in found)}.", k.decisions("subgroups"))


def diagnostic(k: Known) -> Answer | None:
    """Tell sensitivity and specificity at the cuts, or that nothing is diagnosed."""
    questions = k.decided.get("questions", [])
    if not questions:
        return Answer("No yes or no is told: see item 37.", k.config) if not k.evidence.truth.groups else None
    lines = []
    for asked in questions:
        for own in asked["operating"]:
            both = (f"{key} {_short(own[key])}" for key in ("sensitivity", "specificity", "ppv", "npv"))
            lines.append(f"{asked['question']}, cut for {own['rule']}: {', '.join(both)}")
    return Answer(f"{'; '.join(lines)}.", k.decisions("questions"))


def _short(found: Json) -> str:
    return f"{number(found['value'], '.2f')} ({number(found['low'], '.2f')} to {number(found['high'], '.2f')})"


def by_center(k: Known) -> Answer | None:
    """Tell the first metric center by center, and whether features tell the center."""
    first = k.evidence.truth.shown[0]
    found = [own for own in k.evidence.metrics["centers"] if own["center"] != "(none)"]
    if len(found) < 2:
        return None
    each = ", ".join(f"{own['center']}: {number(own[first], '.2f')}" for own in found[:12])
    told = f"{k.evidence.truth.metrics[first][0]} within each center: {each}{' ...' * (len(found) > 12)}."
    where, probe = f"{k.metrics('centers')}, center_probe", k.evidence.metrics["center_probe"]
    if probe:
        told += (
            f" The center is told from the features with a balanced accuracy of {_short(probe['balanced_accuracy'])}."
        )
    lines = _centers_apart(k)
    if lines:
        told, where = " ".join([told, *lines]), f"{where}; {k.uncertainties('centers')}"
    index = k.evidence.metrics.get("robustness_index")
    if index:
        told += f" Robustness index of the features {_short(index['index'])}, {index['chance']:.2f} by chance."
        where += f"; {k.metrics('robustness_index')}"
    return Answer(told, where)


def _centers_apart(k: Known) -> list[str]:
    """Return what is left within centers, and what the mean over centers and one more center would be."""
    within = k.spread.get("centers")
    if not within:
        return []
    name, over = k.evidence.truth.metrics[k.spread["metric"]][0], within["over_centers"]
    lines = (
        [] if within["pooled"]["value"] is None else [f"Pairs of one center alone: {name} {_short(within['pooled'])}."]
    )
    if over:
        lines.append(f"Mean over centers as random effects {_short(over)}")
        if over["next_low"] is None:
            lines[-1] += "."
        else:
            next_ = f"{number(over['next_low'], '.2f')} to {number(over['next_high'], '.2f')}"
            lines[-1] += f"; one more center may lie anywhere from {next_} (prediction interval)."
    return lines


def robust(k: Known) -> Answer | None:
    """Tell what else was looked at."""
    others = [k.evidence.title(name) for name in k.evidence.metrics["models"] if name not in (k.evidence.head, CHOSEN)]
    told = [f"Simpler models on the same patients: {', '.join(others)}"] if others else []
    if len(k.evidence.metrics["centers"]) > 1:
        told.append("each center by itself")
    if k.recipe.get("split") in WHOLE_CENTERS and not k.elsewhere:
        told.append("whole centers held out")
    if k.spread.get("repeats"):
        told.append(f"{k.spread['repeats']['repeats']} repeats with other divisions and seeds")
    if k.elsewhere and k.elsewhere.shift:
        told.append("how far the slides have moved from those of the training")
    where = [k.metrics("models"), k.metrics("centers"), *([k.uncertainties("repeats")] * bool(k.spread.get("repeats")))]
    return Answer(f"{'; '.join(told)}.", "; ".join(where)) if told else None


def internal(k: Known) -> Answer | None:
    """Tell the result on the run's own patients."""
    first = k.evidence.truth.shown[0]
    own = k.elsewhere.own if k.elsewhere else k.evidence.own
    name = k.evidence.truth.metrics[first][0]
    return Answer(f"Out of fold: {name} {_estimate(own[first])}.", k.of_run(f"metrics.json: models.{k.evidence.head}"))


def external(k: Known) -> Answer | None:
    """Tell the result on another cohort, or that there is none here."""
    if not k.elsewhere:
        return Answer("None by this run: `gigamil evaluate` judges it on another cohort.", "report.html")
    own, first = k.evidence, k.evidence.truth.shown[0]
    told = f"{own.scored} {k.unit}s of another cohort: {own.truth.metrics[first][0]} {_estimate(own.own[first])}."
    return Answer(told, "evaluation.json: metrics; report.html")


def recalibrated(k: Known) -> Answer | None:
    """Tell that nothing was changed, and what recalibration would mend."""
    if not k.elsewhere:
        return None
    if not k.elsewhere.recalibration:
        return Answer("The model was not updated.", "evaluation.json")
    return Answer(
        "The model was not updated. What recalibration in the large would mend is told apart.",
        "evaluation.json: recalibration_in_the_large",
    )


def wrong(k: Known) -> Answer | None:
    """Tell how many answers are wrong, and where they stand one by one."""
    right = [own.right for own in judged_patients(k.evidence)]
    if any(own is not None for own in right):
        told = (
            f"{right.count(False)} of {len(right) - right.count(None)} {k.unit}s that were judged got a wrong answer. "
        )
    else:
        told = ""
    return Answer(f"{told}All are listed, the largest errors first.", "report.html, one by one")


def limits(k: Known) -> Answer | None:
    """Tell every warning."""
    lines = k.evidence.warnings()
    if not lines:
        return None
    return Answer(f"{'; '.join(lines)}.", "report.html, To know before reading on")


def details(k: Known) -> Answer | None:
    """Tell where every setting stands."""
    recipe = k.evidence.config["recipe_hash"][:12]
    return Answer(f"Every setting of the run: recipe {recipe}...", f"{k.config}; model_card.md")
