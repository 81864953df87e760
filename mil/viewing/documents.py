"""What pages say of a run: of its cohort, and of each slide the prediction and the tiles that made it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from features.bags.bag import BagHeader
from mil.data.cohort import read_headers
from mil.data.splits import Known, known_slides
from mil.heatmaps.tile_scores import TileScores, tile_scores
from mil.models.ensemble import Ensemble, check_bags_fit, load_ensemble
from mil.run.cases import Case, cases
from mil.run.evidence import read_evidence, read_spread
from mil.run.folder import RunFolder
from mil.viewing.layers import run_layers
from mil.viewing.prediction import Cohort, cohort_of, known_prediction, new_prediction
from wsi.errors import BagError, RequestError
from wsi.pages import number, plural
from wsi.recipe import Json, Recipe
from wsi.store.tile_store import TileStore
from wsi.viewing.documents import cohort_document, cohort_row, column, gallery

_FIRST = "Slides that deserve a look come first: the largest errors, then the least sure."


@dataclass(frozen=True)
class RunSpeaker:
    """A finished run as a `wsi.viewing.pages.folder.Speaker`.

    Raises
    ------
    RequestError
        The run is not finished, or the bags were not made as its were.
    """

    path: Path
    """The run's folder."""
    bags: Sequence[Path] = ()
    """Of a slide without one the page says what the run told of it, and nothing of its tiles."""
    least_tissue: float = 0.25
    """As `mil.viewing.layers.run_layers` has it."""
    device: str = "auto"

    def __post_init__(self) -> None:
        if self.bags and self._run.fusion != "none":
            raise RequestError(
                f"{self.path} fuses bags of several encoders ({self._run.fusion}): its pages say nothing of tiles; "
                "leave --bags out"
            )
        if self.bags:
            check_bags_fit(self._run, self._headers[0])

    @property
    def _run(self) -> RunFolder:
        return RunFolder(self.path)

    @cached_property
    def _headers(self) -> tuple[dict[str, BagHeader], dict[str, str]]:
        """The bags by image id, and why others cannot be read."""
        return read_headers(self.bags) if self.bags else ({}, {})

    @cached_property
    def _ensemble(self) -> Ensemble:
        return load_ensemble(self._run, self.device)

    @cached_property
    def _run_hash(self) -> str:
        return str(self._run.config["recipe_hash"])

    @cached_property
    def _known(self) -> Known:
        return known_slides(self.path)

    @cached_property
    def told(self) -> Cohort:
        """The run's cases, and what it tells of them."""
        evidence = read_evidence(self._run)
        return cohort_of(evidence, cases(evidence))

    @cached_property
    def _places(self) -> dict[str, int]:
        """Which case each slide belongs to."""
        found = enumerate(self.told.cases)
        return {slide.image_id: place for place, case in found for slide in case.slides}

    def recipe(self, store: TileStore) -> Recipe:
        """Return what shapes what is said of a slide."""
        header = self._headers[0].get(store.image_id)
        bag = header and {"recipe": header.recipe_hash, "tiles": header.n_tiles}
        return {"run": self._run_hash, "bag": bag or None, "least_tissue": self.least_tissue}

    def speak(self, store: TileStore, document: Json) -> tuple[Json, Json]:
        """Return a slide's document with the run's layers and prediction, and its row in the cohort's table."""
        return self._spoken(store.image_id, document, self._scores(store), store)

    def recall(self, image_id: str, document: Json) -> tuple[Json, Json]:
        """Return the same without layers, and of a slide that the run does not know without a prediction: at once."""
        return self._spoken(image_id, document, None, None)

    def asks_models(self, image_id: str) -> bool:
        """Tell whether a prediction of a slide is to be had from the models alone: the run does not know it."""
        header = self._tiles_of(image_id)
        return image_id not in self._places and header is not None and header.n_tiles > 0

    def _tiles_of(self, image_id: str) -> BagHeader | None:
        """Return the slide's bag of tiles; None without one, and where the run has seen vectors of slides."""
        return None if self._run.slide_encoder else self._headers[0].get(image_id)

    def _spoken(
        self, image_id: str, document: Json, scores: TileScores | None, store: TileStore | None
    ) -> tuple[Json, Json]:
        place = self._places.get(image_id)
        layers = run_layers(scores, store, self.least_tissue) if scores is not None and store is not None else []
        case = None if place is None else self.told.cases[place]
        prediction = None
        if place is not None:
            prediction = known_prediction(self.told, place)
        elif scores is not None:
            prediction = new_prediction(self.told, scores)
        said = {
            "patient": case.patient_id if case else document["patient"],
            "layers": [*layers, *document["layers"]],
            "prediction": prediction,
            "facts": [*_facts(case, image_id), *document["facts"]],
            "warnings": [*document["warnings"], *self._silences(image_id)],
        }
        if layers:
            said |= gallery(layers)
        return document | said, self._row(document | said, case)

    def _scores(self, store: TileStore) -> TileScores | None:
        """Return what the models say of the slide's tiles; None without a bag or without tiles."""
        _, failures = self._headers
        if store.image_id in failures:
            raise BagError(failures[store.image_id])
        header = self._tiles_of(store.image_id)
        if header is None or not header.n_tiles:
            return None
        return tile_scores(self._ensemble, header, store, self._known)

    def _silences(self, image_id: str) -> list[str]:
        """Return why nothing is said of the tiles."""
        if slide_encoder := self._run.slide_encoder:
            return [f"The run was trained on one vector a slide ({slide_encoder}), and says nothing of tiles."]
        header = self._tiles_of(image_id)
        if not self.bags or (header is not None and header.n_tiles):
            return []
        if header is not None:
            return ["No tile of this slide was judged: no tissue was found."]
        return ["There were no features of this slide: what the models say of its tiles is not shown."]

    def _row(self, document: Json, case: Case | None) -> Json:
        """Return a slide's row in the cohort's table, and how much it deserves a look."""
        told = document["prediction"]
        values = {"tiles": document["n"], "warnings": len(document["warnings"])}
        if told is not None:
            values |= {"label": told["label"], "right": told["right"], **answered(told)}
            values["doubt"] = told["uncertainty"] and told["uncertainty"]["value"]
        if case is not None:
            values |= {"error": case.judged.error, "center": case.center or None}
        error, doubt = values.get("error"), values.get("doubt")
        worth = -1.0 if told is None else error if error is not None else doubt if doubt is not None else 0.0
        return {"patient": document["patient"], "values": values, "worth": worth}

    def cohort(self, rows: Mapping[str, Json]) -> Json:
        """Return the cohort's document from the rows of slides that have a page."""
        evidence, total = self.told.evidence, len({case.patient_id for case in self.told.cases})
        verdict = evidence.verdict(read_spread(self._run))
        known = {row["patient"] for row in rows.values()} - {None}
        new = sum(row["patient"] is None for row in rows.values())
        others = f", and {new} that it did not know" if new else ""
        first, words = evidence.truth.shown[0], evidence.truth.words
        model = f"{evidence.truth.claim(evidence.classes)} with {words.achieved}"
        there = f"{plural(len(rows) - new, 'slide')} of {len(known)} of the run's {plural(total, 'patient')}{others}."
        said = (
            f"{' '.join(filter(None, (there, verdict)))} "
            f"On patients that it had not seen, the model {model} of {number(evidence.own[first]['value'], '.2f')}. "
            f"{_FIRST} Error: {words.error}. {words.caveat}"
        )
        order = sorted(rows, key=lambda image_id: (-rows[image_id]["worth"], image_id))
        slides = [cohort_row(image_id, rows[image_id]["patient"], rows[image_id]["values"]) for image_id in order]
        known = {key for row in rows.values() for key, value in row["values"].items() if value is not None}
        columns = [own for own in _columns(evidence.classes) if own["key"] in known]
        return cohort_document(words.joint.join(evidence.classes), said, columns, slides)


def answered(told: Json) -> Json:
    """Return a prediction's cells: what is told, and with which probability or value."""
    values, classes = told["values"], told["classes"]
    if told["kind"] == "probabilities":
        best = max(range(len(values)), key=values.__getitem__)
        return {"predicted": classes[best], "probability": values[best]}
    if told["kind"] == "labels":
        likely = [name for name, value in zip(classes, values, strict=True) if value >= 0.5]
        return {"predicted": ", ".join(likely) or "none"}
    return {"value": values[0]}


def _columns(classes: Sequence[str]) -> list[Json]:
    """Return the columns that the table of a run can have."""
    return [
        column("predicted", "Predicted", "text", choices=True),
        column("probability", "Probability", "share"),
        column("value", f"Predicted {classes[0]}", "number"),
        column("label", "Label", "text", choices=True),
        column("right", "Right", "yesno", choices=True),
        column("error", "Error", "number"),
        column("doubt", "Uncertainty", "number"),
        column("center", "Center", "text", choices=True),
        column("tiles", "Tiles", "number"),
        column("warnings", "Warnings", "number"),
    ]


def _facts(case: Case | None, image_id: str) -> list[list[str]]:
    """Return what the run knows of a slide, as pairs of name and text."""
    if case is None:
        return [["Cohort", "The run does not know this slide."]]
    facts = [["Patient", case.patient_id], ["Center", case.center]]
    others = [slide.image_id for slide in case.slides if slide.image_id != image_id]
    facts.append(["Other slides of the patient", ", ".join(others)])
    own = next(slide for slide in case.slides if slide.image_id == image_id)
    facts.append(["This slide alone", own.told if others else ""])
    return [fact for fact in facts if fact[1]]
