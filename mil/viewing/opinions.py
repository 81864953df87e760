"""What a run says of slides, for the server: whom it knows, in which order to look, what to hide from blind readers."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from threading import Lock

from mil.run.cases import Case
from mil.targets import ClassTarget
from mil.viewing.documents import RunSpeaker
from mil.viewing.items import Items
from wsi.cohort.manifest import ManifestRow
from wsi.errors import RequestError
from wsi.files.documents import parse_json, read_document
from wsi.recipe import Json
from wsi.store.tile_store import TileStore

_BRIEF: Json = {"patient": None, "layers": [], "facts": [], "warnings": [], "n": None}
"""As much of a slide's document as the run's own words want."""


class RunOpinions:
    """A finished run as `wsi.viewing.review.Opinions`. Safe across threads.

    Parameters
    ----------
    speaker
        The run, which says the same on pages in a folder.
    stores
        The slides' stores by image id; of others the run says what it knows without looking at tiles.
    familiarity
        How like the known slides each is, by image id, as `gigamil similar` found; where nobody looked, nothing.
    """

    def __init__(
        self, speaker: RunSpeaker, stores: Mapping[str, TileStore], familiarity: Mapping[str, float] | None = None
    ) -> None:
        self._speaker, self._stores, self._familiarity = speaker, stores, familiarity or {}
        self._speaking = Lock()  # one slide at a time: each takes all cores
        new = [name for name in stores if speaker.asks_models(name)]
        self._new = {name: speaker.speak(stores[name], _BRIEF) for name in new}

    @cached_property
    def classes(self) -> tuple[str, ...]:
        evidence = self._speaker.told.evidence
        return tuple(evidence.classes) if evidence.run.predicts is ClassTarget else ()

    @cached_property
    def _cases(self) -> dict[str, tuple[int, Case]]:
        found = enumerate(self._speaker.told.cases)
        return {slide.image_id: (place, case) for place, case in found for slide in case.slides}

    @cached_property
    def rows(self) -> Mapping[str, ManifestRow]:
        return {
            name: ManifestRow(name, case.patient_id, case.judged.truth or None, case.center or None)
            for name, (_, case) in self._cases.items()
        }

    @cached_property
    def orders(self) -> Mapping[str, Mapping[str, float]]:
        errors = {name: case.judged.error for name, (_, case) in self._cases.items()}
        doubts = {name: case.doubt for name, (_, case) in self._cases.items()}
        for name, (document, _) in self._new.items():
            doubts[name] = (document["prediction"]["uncertainty"] or {}).get("value")
        found = {"uncertainty": doubts, "error": errors}
        known = {order: {n: v for n, v in values.items() if v is not None} for order, values in found.items()}
        return known | {"novelty": {name: -value for name, value in self._familiarity.items()}}

    def predicted(self, image_id: str) -> str | None:
        if not self.classes:
            return None
        if image_id in self._new:
            values = self._new[image_id][0]["prediction"]["values"]
            return self.classes[max(range(len(values)), key=values.__getitem__)]
        place, case = self._cases.get(image_id, (0, None))
        judged = case is not None and self._speaker.told.judged_P[place]
        return self.classes[int(self._speaker.told.told_PC[place].argmax())] if judged else None

    def of_slide(self, image_id: str, document: Json) -> Json:
        with self._speaking:
            store = self._stores.get(image_id)
            spoken = self._speaker.recall(image_id, document) if store is None else self._speaker.speak(store, document)
            return spoken[0]

    def of_cohort(self, document: Json) -> Json:
        rows = {}
        for own in document["slides"]:
            values = own["values"]
            brief = _BRIEF | {"n": values.get("tiles"), "warnings": [""] * values.get("warnings", 0)}
            told = self._new.get(own["id"]) or self._speaker.recall(own["id"], brief)
            rows[own["id"]] = told[1] | {"values": told[1]["values"] | _counted(values)}
        found, patients = self._speaker.cohort(rows), {own["id"]: own["patient"] for own in document["slides"]}
        return found | {"slides": [own | {"patient": patients[own["id"]]} for own in found["slides"]]}


def _counted(values: Json) -> Json:
    """Return what the stores alone tell, as the run's table has it."""
    return {key: values[key] for key in ("tiles", "warnings", "problem") if key in values}


def opinions_of(run: Path, items: Items, stores: Sequence[TileStore]) -> RunOpinions:
    """Return what a run says.

    Raises
    ------
    RequestError
        The run is not finished, bags were not made as its were, or a table of similar cases cannot be read.
    """
    opinions = RunOpinions(
        RunSpeaker(run, items.bags), {store.image_id: store for store in stores}, read_familiarity(items.similar)
    )
    opinions.orders, opinions.classes  # noqa: B018 (an unfinished run is told before anybody looks)
    return opinions


def read_familiarity(tables: Sequence[Path]) -> dict[str, float]:
    """Return how familiar each slide is, by image id, from what stands beside tables of `gigamil similar`.

    Raises
    ------
    RequestError
        Nothing stands there, or it cannot be read.
    """
    found: dict[str, float] = {}
    for table in tables:
        beside = table.with_suffix(".json")
        try:
            told = parse_json(read_document(beside, RequestError), finite=True)["familiarity"]
            found |= {str(name): float(value) for name, value in told.items()}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            if isinstance(error, RequestError):
                raise
            raise RequestError(f"{beside}: expected what `gigamil similar` writes beside its table") from None
    return found
