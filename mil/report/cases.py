"""The report's table of cases: its rows, columns and filters, and the files that it links."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import numpy as np

from mil.evaluation.evaluate import heat_map_folder
from mil.run.cases import Case, cases, least_sure
from mil.run.evidence import Evidence
from mil.run.folder import RunFolder
from wsi.errors import RequestError
from wsi.pages import natural

LARGE = 0.25
"""Share of the cases whose errors count as the largest, where no answer is right or wrong."""


@dataclass(frozen=True, slots=True)
class Row:
    """A case, and by what it is filtered."""

    case: Case
    error: str
    doubt: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CasesTable:
    """What the template ``cases.html`` shows."""

    by_slide: bool
    rows: Sequence[Row]
    columns: Sequence[tuple[str, str | None]]
    picks: Sequence[tuple[str, str, Sequence[tuple[str, str]]]]
    pages: dict[str, str]
    """Image id -> address of the slide's page, seen from the report."""
    maps: dict[str, str]
    """Image id -> address of its heat map."""
    answers: bool
    """Whether answers are right or wrong."""
    doubts: str
    """What the uncertainty is; empty where none is known."""
    form: str
    """Of the numbers."""


def cases_table(evidence: Evidence, pages: Path | None) -> CasesTable:
    """Return the table; the largest errors first, and what is not known last.

    Raises
    ------
    RequestError
        ``pages`` is given and holds no page of a slide of the run, or a table of the run is damaged.
    """
    found = cases(evidence)
    by_slide = evidence.run.unit_column == "image_id"
    answers, bound = any(case.judged.right is not None for case in found), least_sure(found)
    errors = [case.judged.error for case in found if case.judged.error is not None]
    large = float(np.quantile(errors, 1 - LARGE)) if errors else np.inf
    found.sort(key=lambda case: (case.judged.error is None, -(case.judged.error or 0.0)))
    slides = [slide.image_id for case in found for slide in case.slides]
    first = [("Slide", "t"), ("Patient", "t")] if by_slide else [("Patient", "t")]
    answer, doubt = ([("Answer", "t")] if answers else []), ([("Uncertainty", "n")] if bound is not None else [])
    kinds = [("wrong", "wrong"), ("right", "right")] if answers else [("large", "the largest quarter")]
    picks = [("error", "Answer" if answers else "Error", kinds)]
    if bound is not None:
        picks.append(("doubt", "Uncertainty", [("high", "the least sure quarter"), ("low", "the others")]))
    centers = sorted({case.center for case in found}, key=natural)
    if len(centers) > 1:
        picks.insert(0, ("center", "Center", [(own, own) for own in centers if own]))
    maps, beside = heat_map_folder(evidence.run), not evidence.elsewhere
    return CasesTable(
        by_slide=by_slide,
        rows=[Row(case, _error(case, large), _doubt(case, bound)) for case in found],
        columns=[
            *first, ("Center", "t"), ("Truth", "t"), ("Predicted", "t"), *answer, ("Error", "n"), *doubt,
            ("Page" if by_slide else "Slides", None),
        ],
        picks=picks,
        pages=_pages(slides, pages, evidence.run) if beside else {},
        maps={own: f"{maps.name}/{_quoted(own)}.png" for own in slides if beside and (maps / f"{own}.png").is_file()},
        answers=answers,
        doubts=_explained(evidence, found) if bound is not None else "",
        form=".2f" if evidence.truth.words.told == "probabilities" or evidence.truth.joint else ".3g",
    )  # fmt: skip


def _error(case: Case, large: float) -> str:
    if case.judged.right is not None:
        return "right" if case.judged.right else "wrong"
    return "large" if case.judged.error is not None and case.judged.error >= large else ""


def _doubt(case: Case, bound: float | None) -> str:
    return "" if case.doubt is None or bound is None else "high" if case.doubt >= bound else "low"


def _explained(evidence: Evidence, found: Sequence[Case]) -> str:
    if any(case.judged.doubt is not None for case in found):
        return "0 where the model is sure, 1 where its probabilities are no better than a guess (their entropy)"
    return f"standard deviation of the answers of the {evidence.run.models_per_fold} models of the fold"


def _pages(slides: Sequence[str], given: Path | None, run: RunFolder) -> dict[str, str]:
    """Return the addresses of the pages that are there and show this run or none: others would contradict the report.

    The index of all pages stands under the name of no slide.
    """
    folder, made = run.path / "pages" if given is None else given, str(run.config["recipe_hash"])
    there = [own for own in slides if _shows(folder / "slides" / own, made)]
    if given is not None and not there:
        raise RequestError(
            f"--pages {given}: expected slides/<image_id>/index.html of slides of this run, as `gigamil page` writes "
            "them, found none"
        )
    try:
        seen = quote(Path(os.path.relpath(folder.resolve(), run.path.resolve())).as_posix())
    except ValueError:  # another drive
        seen = folder.resolve().as_uri()
    index = {"": f"{seen}/index.html"} if there and (folder / "index.html").is_file() else {}
    return index | {own: f"{seen}/slides/{_quoted(own)}/index.html" for own in there}


def _shows(page: Path, made: str) -> bool:
    """Tell whether a slide's page is there, and not of a run of another recipe."""
    try:
        said = json.loads((page / "page.json").read_bytes())["recipe"]["said"]
        return bool(said.get("run", made) == made) and (page / "index.html").is_file()
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return (page / "index.html").is_file()


def _quoted(image_id: str) -> str:
    return quote(image_id, safe="")
