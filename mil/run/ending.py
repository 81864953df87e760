"""What a finished run tells those who started it: the score beside its baselines, every warning, and where it lies."""

import json
from pathlib import Path

from mil.run.checks import run_json
from mil.run.evidence import read_evidence, read_spread, title_of
from mil.run.folder import RunFolder
from wsi.errors import RequestError
from wsi.pages import plural
from wsi.recipe import Json


def ending_of_run(path: Path) -> Json:
    """Return score with interval, baselines, warnings, slides left out, the report and the next command.

    Raises
    ------
    RequestError
        The run is not finished.
    """
    run = RunFolder(path)
    metrics = run.read_json("metrics.json")
    own = metrics["models"][metrics["head"]]
    metric = next((name for name in (run.predicts.shown[0], *own) if name in own), None)
    if metric is None:
        raise RequestError(f"{path}: no metric of {metrics['head']}: train the run to its end")
    others = {name: found.get(metric) for name, found in metrics["models"].items() if name != metrics["head"]}
    whole = "folds" in metrics  # an earlier version evaluated some targets in less detail
    evidence = read_evidence(run) if whole else None
    warnings = list(metrics["warnings"]) if evidence is None else evidence.warnings()
    left_out = dict(metrics["failures"])
    return {
        "metric": metric,
        "score": own[metric],
        "verdict": "" if evidence is None else evidence.verdict(read_spread(run)),
        "baselines": {name: found for name, found in others.items() if found is not None},
        "patients": metrics["patients"],
        "nobody": run.predicts.words.nobody,
        "warnings": [line for line in warnings if not any(line.startswith(f"slide {i} could") for i in left_out)],
        "left_out": left_out,
        "run": str(path),
        "report": str(path / "report.html"),
        "next": f"gigamil predict {path} {_new(run)} -o submission.csv",
    }


def _new(run: RunFolder) -> str:
    """Return what a run predicts of: slides, or vectors made of them beforehand."""
    return "NEW_VECTORS" if run.slide_encoder else "NEW_SLIDES"


def ending_of_evaluation(path: Path) -> Json:
    """Return the score on another cohort, what is to be said of it first, and where the report lies."""
    told, report = run_json(path / "evaluation.json"), str(path / "report.html")
    if "metric" not in told:  # an earlier version's
        return {"report": report}
    return {
        "metric": told["metric"],
        "score": told["metrics"]["models"][told["metrics"]["head"]][told["metric"]],
        "seen": f"on {plural(told['metrics']['patients'], told['unit'])} of another cohort",
        "verdict": told["verdict"],
        "warnings": told.get("warnings", []),
        "patients": told["metrics"]["patients"],
        "report": report,
    }


def ending_of_repeats(path: Path) -> Json:
    """Return the mean and the spread of each metric, and the next command."""
    spread = json.loads((path / "repeats.json").read_text())
    first = next((name for name in ("auc", *spread) if name in spread), "")
    return {
        "metric": first,
        "spread": {name: {"mean": own["mean"], "sd": own["sd"]} for name, own in spread.items()},
        "repeats": len(list(path.glob("repeat*/metrics.json"))),
        "table": str(path / "repeats.csv"),
        "next": f"gigamil report {path / 'repeat0'}",
    }


def ending_of_search(path: Path) -> Json:
    """Return the score of search and training, the settings to use, and the command that uses them."""
    told = json.loads((path / "tune.json").read_text())
    nested = told["nested_score"]
    return {
        "metric": "weighted_log_loss",
        "score": nested["weighted_log_loss"],
        "nested": nested,
        "settings": told["settings"],
        "table": str(path / "tune.json"),
        "next": f"gigamil train BAGS -m MANIFEST --settings {path / 'tune.json'} -o RUN",
    }


def lines_of(ending: Json) -> list[str]:
    """Return the ending for a person, one line each."""
    lines = []
    if "score" in ending:
        seen = ending.get("seen", "by models that had not seen the patients")
        lines.append(f"{ending['metric']} {_estimate(ending['score'])}, {seen}")
    lines += filter(None, [ending.get("verdict")])
    for name, found in ending.get("baselines", {}).items():
        lines.append(f"  {title_of(name, ending['nobody'])}: {_estimate(found)}")
    for name, own in ending.get("spread", {}).items():
        lines.append(f"{name} {own['mean']:.3f}, standard deviation {own['sd']:.3f} over {ending['repeats']} repeats")
    if "settings" in ending:
        lines.append("settings: " + ", ".join(f"{name} {value}" for name, value in ending["settings"].items()))
    lines += [f"warning: {line}" for line in ending.get("warnings", ())]
    lines += [f"left out: {item}: {why}" for item, why in ending.get("left_out", {}).items()]
    return lines + [f"{name}: {ending[name]}" for name in ("report", "table", "next") if name in ending]


def _estimate(found: Json) -> str:
    value, low, high = (("not defined" if own is None else f"{own:.3f}") for own in _parts(found))
    if found["value"] is None:
        return value
    return f"{value} (95 % interval {low} to {high})"


def _parts(found: Json) -> tuple[float | None, float | None, float | None]:
    return found["value"], found["low"], found["high"]
