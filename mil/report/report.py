"""`gigamil report`: one self-contained page on a finished run, for a pathologist first, and its model card."""

import base64
import io
import time
from html import escape
from pathlib import Path

from mil.evaluation.bootstrap import draw_patients
from mil.evaluation.evaluate import heat_map_folder
from mil.evaluation.examples import choose
from mil.heads import has_attention
from mil.inference.heatmap import heatmap
from mil.inference.options import HeatmapOptions
from mil.report import report_html as html
from mil.report.card import model_card
from mil.report.figures import calibration_figure, history_figure, roc_figure
from mil.report.options import ReportOptions
from mil.report.page import fill
from mil.run.evidence import TITLES, Evidence, read_evidence
from mil.run.folder import RunFolder
from wsi.files.atomic import write_text
from wsi.options import stage
from wsi.outcome import Outcome, Progress, Silent, Status, Summary
from wsi.store.tile_store import find_stores

JPEG_QUALITY = 85
CURVE_DRAWS = 500


@stage
def report(options: ReportOptions, progress: Progress | None = None) -> Summary:
    """Write report.html and model_card.md of a finished run.

    Raises
    ------
    RequestError
        The run is not finished.
    """
    start, progress = time.monotonic(), progress or Silent()
    run = RunFolder(options.run)
    evidence = read_evidence(run)
    progress.begin("report", 2, "pages")
    write_text(run.path / "model_card.md", model_card(evidence))
    progress.advance(1)
    drawn = _draw_examples(options, evidence)
    write_text(run.path / "report.html", page(evidence))
    progress.advance(1)
    progress.end()
    done = Outcome(str(run.path / "report.html"), Status.DONE)
    return Summary("report", [done, *drawn], time.monotonic() - start)


def _draw_examples(options: ReportOptions, evidence: Evidence) -> list[Outcome]:
    """Draw the heat maps to show; return those that failed."""
    if evidence.run.fusion != "none":
        return []
    if not (options.bags and options.stores and has_attention(evidence.head)):
        return []
    available = {store.image_id for store in find_stores(options.stores)}
    wanted = tuple(image_id for image_id, _ in choose(evidence.slides, evidence.classes, available))
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


def page(evidence: Evidence) -> str:
    """Return report.html."""
    name = evidence.run.path.resolve().name
    return fill(
        "report_template.html",
        title=escape(f"{' vs '.join(evidence.classes)} \N{MIDDLE DOT} {name}"),
        headline=html.headline(evidence),
        lead=html.lead(evidence),
        warnings=html.warnings(evidence),
        protocol=html.protocol(evidence),
        cards=html.cards(evidence),
        models=html.models(evidence),
        curves=_curves(evidence),
        confusion=html.confusion(evidence),
        folds=html.groups(evidence, "folds", "fold", "Each fold, scored by models of the other folds."),
        centers=html.groups(evidence, "centers", "center", "Within each center; a dash where one class is missing.")
        + html.probe(evidence),
        heatmaps=_heat_maps(evidence),
        history=_history(evidence),
        making=html.making(evidence),
    )


def _curves(evidence: Evidence) -> str:
    classes, labels = evidence.classes, evidence.labels_P
    blind = ("constant", "class_prior")
    shown = {TITLES.get(name, name): probs for name, probs in evidence.probs.items() if name not in blind}
    draws = draw_patients(len(labels), 0, CURVE_DRAWS)
    own = evidence.probs[evidence.head]
    value = html.number(evidence.own["auc"]["value"], 2)
    return html.image(
        roc_figure(labels, shown, classes),
        f"ROC curves; the model of this run has an area of {value}",
        "ROC: true against false positive rate over all thresholds. The dashed line is chance.",
    ) + html.image(
        calibration_figure(labels, own, classes, draws),
        "Predicted probability against observed share of patients",
        "Calibration: on the dashed line a stated 70 % is right in 70 %. Bins of equal numbers of patients; bars are "
        "95 % intervals; classes are weighted equally.",
    )


def _heat_maps(evidence: Evidence) -> str:
    folder = heat_map_folder(evidence.run)
    there = {path.stem for path in folder.glob("*.png")}
    chosen = choose(evidence.slides, evidence.classes, there)
    if not has_attention(evidence.head):
        return "<p>This head weighs all tiles alike: there is no attention to show.</p>"
    if not chosen:
        return "<p>No heat maps were drawn. Give the tile stores (<code>--stores</code>) to draw them.</p>"
    figures = [
        html.image(
            _jpeg_uri(folder / f"{image_id}.png"),
            f"Slide {image_id}: overview, attention laid over it, and the tiles with the highest attention",
            f"<b>{escape(caption)}</b>",
            "wide",
        )
        for image_id, caption in chosen
    ]
    intro = (
        "<p>The surest right answers first, then the surest wrong ones. Each picture comes from models that never saw "
        "the patient. High attention says where the model looked, not that the tissue there is abnormal.</p>"
    )
    return intro + "".join(figures)


def _jpeg_uri(path: Path) -> str:
    from PIL import Image

    buffer = io.BytesIO()
    with Image.open(path) as picture:
        picture.convert("RGB").save(buffer, "JPEG", quality=JPEG_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def _history(evidence: Evidence) -> str:
    return html.image(
        history_figure(evidence.histories, evidence.history_folds),
        "Training and inner validation loss of every model over the epochs",
        "Training stops when the inner validation patients, taken from the training folds, stop improving.",
        "wide",
    )
