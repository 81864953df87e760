"""`gigamil report`: one self-contained page on a finished run, for a pathologist first, and its model card."""

import io
import json
import time
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import tomli_w

from mil.checklists.known import Known
from mil.checklists.page import PAGE, TABLE, Flowing, checklists_page, checklists_table, flowing
from mil.evaluation.bootstrap import draw_groups
from mil.evaluation.decisions.rules import DEFAULT, parse_rule
from mil.evaluation.evaluate import heat_map_folder
from mil.evaluation.examples import choose
from mil.evaluation.subgroups import LEAST, LEAST_OF_EACH, Column, columns_of
from mil.heads import has_attention
from mil.heatmaps.heatmap import heatmap
from mil.heatmaps.options import HeatmapOptions
from mil.report.by_target.measured import measured
from mil.report.by_target.shown import FILE as BY_TARGET
from mil.report.by_target.shown import Shown
from mil.report.cards.model_card import model_card
from mil.report.cases import cases_table
from mil.report.decisions.decided import FILE, Decided, decide_out_of_fold
from mil.report.figures import history_figures, plot_figure
from mil.report.localisation import Localisation, localise, read_localisation, write_localisation
from mil.report.options import ReportOptions
from mil.report.printing import find_browser, print_pdf
from mil.report.spread.told_apart import told_apart
from mil.review.suspects import suspects_of
from mil.run.evidence import SPREAD, Evidence, read_evidence
from mil.run.folder import RunFolder
from mil.run.protocol import divided, of_unit, put_together
from mil.run.record import read_record
from mil.targets.calibration import LOCATED
from mil.targets.plot import Plot
from wsi.cohort.manifest import load_manifest
from wsi.files.atomic import write_text
from wsi.options import stage
from wsi.pages import data_uri, fill, natural, number
from wsi.progress.outcome import Outcome, Progress, Silent, Status, Summary
from wsi.recipe import Json
from wsi.store.tile_store import find_stores

JPEG_QUALITY = 85
CURVE_DRAWS = 500


@stage
def report(options: ReportOptions, progress: Progress | None = None) -> Summary:
    """Write report.html and model_card.md of a finished run, and where it is asked for report.pdf.

    Raises
    ------
    RequestError
        The run is not finished, or no browser prints it.
    """
    start, progress = time.monotonic(), progress or Silent()
    run, browser = RunFolder(options.run), find_browser() if options.pdf else None
    evidence = read_evidence(run)
    progress.begin("report", 2 + options.pdf, "pages")
    drawn = [*_draw_examples(options, evidence), *_localise(options, progress)]
    columns = _columns(options, evidence)
    decided = decide_out_of_fold(evidence, [parse_rule(own) for own in options.operating], columns)
    run.write_json(FILE, decided.told)
    spread = told_apart(evidence)
    flow = _flowing(evidence, decided, spread)
    run.write_json(SPREAD, spread)
    write_text(run.path / "model_card.md", model_card(evidence, spread))
    progress.advance(1)
    by_target = measured(evidence, horizons=options.horizons)
    if by_target is not None:
        run.write_json(BY_TARGET, by_target.told)
    text = page(evidence, options.pages, decided, by_target, spread=spread, flow=flow)
    write_text(run.path / PAGE, checklists_page(flow, run.path.resolve().name))
    write_text(run.path / TABLE, checklists_table(flow))
    write_text(run.path / "report.html", text)
    progress.advance(1)
    done = [Outcome(str(run.path / "report.html"), Status.DONE)]
    if browser is not None:
        print_pdf(text, run.path / "report.pdf", browser)
        done.append(Outcome(str(run.path / "report.pdf"), Status.DONE))
        progress.advance(1)
    progress.end()
    return Summary("report", [*done, *drawn], time.monotonic() - start)


def _flowing(evidence: Evidence, decided: Decided, spread: Json) -> Flowing:
    """Return who took part, and the checklists as far as the run knows."""
    record, regions = read_record(evidence.run.path), read_localisation(evidence.run.path) is not None
    return flowing(Known(evidence, record, record.flow, decided.told, regions, spread=spread))


def _columns(options: ReportOptions, evidence: Evidence) -> list[Column]:
    """Return the further columns of the manifest, for the run's patients, where it is given."""
    if options.manifest is None:
        return []
    return columns_of(
        load_manifest(options.manifest),
        [row["patient_id"] for row in evidence.patients],
        options.subgroups,
        by_slide=evidence.run.unit_column == "image_id",
        source=str(options.manifest),
    )


def _localise(options: ReportOptions, progress: Progress) -> list[Outcome]:
    """Compare the attention with drawn regions, where there are any; return the slides that failed."""
    if options.annotations is None:
        return []
    classes = options.annotation_class
    asked = Localisation(options.run, options.bags, options.stores, options.annotations, classes)
    slides, lost = localise(asked, progress)
    if slides:
        write_localisation(options.run, slides, classes)
    return lost


def _draw_examples(options: ReportOptions, evidence: Evidence) -> list[Outcome]:
    """Draw the heat maps to show; return those that failed."""
    if evidence.run.fusion != "none" or evidence.run.slide_encoder:
        return []
    if not (options.bags and options.stores and has_attention(evidence.head)):
        return []
    available = {store.image_id for store in find_stores(options.stores)}
    chosen = choose(evidence.run.predicts, evidence.slides, evidence.classes, available)
    wanted = tuple(image_id for image_id, _ in chosen)
    if not wanted:
        return []
    request = HeatmapOptions(
        run=options.run,
        bags=options.bags,
        stores=options.stores,
        out=heat_map_folder(evidence.run),
        image_ids=wanted,
        overwrite=True,
    )
    return heatmap(request).ended(Status.FAILED)


def page(
    evidence: Evidence,
    pages: Path | None = None,
    decided: Decided | None = None,
    by_target: Shown | None = None,
    template: str = "mil/report/report.html",
    spread: Json | None = None,
    flow: Flowing | None = None,
    **more: Any,
) -> str:
    """Return report.html; ``pages``: the folder of the slides' pages, where it is not beside the report.

    ``template``: one that extends the report's, which gets what is given beside. ``flow``: who took part.
    """
    run, truth, recipe = evidence.run, evidence.truth, evidence.config["recipe"]
    by_target = by_target or (None if evidence.elsewhere else measured(evidence))
    decided = decided or decide_out_of_fold(evidence, [parse_rule(rule) for rule in DEFAULT])
    spread = spread or ({} if evidence.elsewhere else told_apart(evidence))
    keys = [key for key in truth.metrics if key in evidence.own]
    shown = {evidence.title(name): told for name, told in evidence.told.items()}
    draws = draw_groups(evidence.groups, 0, CURVE_DRAWS)
    folds, usable = evidence.folds_P, evidence.usable_P
    area = number(evidence.first(evidence.head), ".2f")
    losses = (evidence.histories, evidence.history_folds, truth.words.loss, len(truth.groups))
    return fill(
        template,
        evidence=evidence,
        found=cases_table(evidence, pages),
        flowing=flow or _flowing(evidence, decided, spread),
        suspected=suspects_of(evidence),
        localisation=read_localisation(run.path),
        breakdown=truth.of(usable).breakdown(evidence.told[evidence.head][usable], folds[usable]),
        centers=sorted(evidence.metrics["centers"], key=lambda own: natural(own["center"])),
        name=run.path.resolve().name,
        warnings=[line for line in evidence.warnings() if line != evidence.about_center()],
        divided=divided(recipe),
        put_together=put_together(recipe),
        keys=keys,
        names=[truth.metrics[key][0] for key in keys],
        said=partial(of_unit, unit=run.unit),
        curves=_drawn(truth.plots(shown, evidence.title(evidence.head), area, draws, folds), run.unit),
        decided=decided,
        spread=spread,
        by_target=by_target,
        by_target_figures=_drawn(by_target.plots if by_target is not None else ()),
        decision_figures=_drawn(decided.decision_plots, run.unit),
        abstention_figures=_drawn(decided.abstention_plots, run.unit),
        subgrouped=decided.subgroups,
        least=LEAST,
        least_of_each=LEAST_OF_EACH,
        asked=decided.told["questions"][0]["question"] if len(decided.told["questions"]) == 1 else "",
        attention=has_attention(evidence.head),
        maps=_maps(evidence),
        history=history_figures(*losses) if evidence.histories else [],
        making=_making(evidence),
        settings=tomli_w.dumps(recipe),
        features=json.dumps(json.loads(evidence.config["about"]["bag_recipe"]), indent=1),
        **more,
    )


def _maps(evidence: Evidence) -> list[tuple[str, str, str]]:
    """Return image id, caption and picture of the heat maps to show."""
    folder = heat_map_folder(evidence.run)
    there = {path.stem for path in folder.glob("*.png")}
    chosen = choose(evidence.run.predicts, evidence.slides, evidence.classes, there)
    return [(image_id, caption, _jpeg_uri(folder / f"{image_id}.png")) for image_id, caption in chosen]


def _drawn(plots: Iterable[Plot], unit: str = "patient") -> list[tuple[str, Plot]]:
    return [(plot_figure(own), replace(own, caption=of_unit(own.caption, unit))) for own in plots]


def _jpeg_uri(path: Path) -> str:
    from PIL import Image

    buffer = io.BytesIO()
    with Image.open(path) as picture:
        picture.convert("RGB").save(buffer, "JPEG", quality=JPEG_QUALITY)
    return data_uri(buffer.getvalue())


def _making(evidence: Evidence) -> dict[str, str]:
    """Return encoder, calibration, recipe and versions, by name; empty where nothing is told."""
    config, encoders = evidence.config, evidence.encoders
    made, trained = config["recipe"]["bags"], {True: "yes", False: "no", None: "not told by the bags"}
    folds = "; ".join(map(_calibration, evidence.calibration.get("folds", ())))
    return {
        "Encoder": made["encoder"] or "not told by the bags",
        "Encoder trained": "; ".join(trained[own.get("trained")] for own in encoders),
        "What it is": "; ".join(own["description"] for own in encoders if "description" in own),
        "Licence of its weights": "; ".join(own["licence"] for own in encoders if "licence" in own),
        "Width of the features": str(made["dim"]),
        "Calibration": _calibration(evidence.calibration),
        "Calibration of the folds": folds,
        "Recipe": config["recipe_hash"],
        "Versions": ", ".join(f"{name} {found}" for name, found in config["about"]["versions"].items()),
    }


def _calibration(values: Json) -> str:
    parts = [values["method"]]
    if values["method"] not in ("none", "prior", LOCATED):
        parts.append(f"T {number(values['temperature'], '.2f')}")
    if values["shift"]:
        parts.append("shift " + ", ".join(number(value, ".2f") for value in values["shift"]))
    if values["floor"]:
        parts.append(f"floor {values['floor']:g}")
    return " ".join(parts)
