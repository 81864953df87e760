"""Reading slides one after the other: whose judgement is asked, what is hidden until then, what comes out in the end.

Blind: a reader gets no prediction and no layer of a run before the slide is judged; predictions are of patients, so all
slides of a patient are to be judged first.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Protocol

from wsi.cohort.manifest import ManifestRow
from wsi.errors import RequestError
from wsi.files.csv_table import csv_text
from wsi.recipe import Json
from wsi.viewing.judgements import (
    MOST_LABEL,
    MOST_NOTE,
    VERDICTS,
    Judgement,
    JudgementFile,
    Made,
    agreements,
    check_text,
    latest,
)

ORDERS = {
    "uncertainty": "the least certain first",
    "error": "predictions that differ from the label first",
    "novelty": "the least like the known slides first",
    "id": "by name",
}
"""Of a worklist; a run has some of them, names are always there."""
HEADER = ("image_id", "patient_id", "label", "center_id", "label_before", "correction", "readers", "notes")
"""Of the table of judgements: what `gigamil train -m` takes, and how it came about."""
_TELLING = frozenset({"error"})
"""Orders that would tell a blind reader what is hidden."""


class Opinions(Protocol):
    """What a run says of slides."""

    @property
    def classes(self) -> tuple[str, ...]:
        """The labels that there are; none where the run predicts something else than classes."""

    @property
    def rows(self) -> Mapping[str, ManifestRow]:
        """Patient, label and center of each slide that the run knows, by image id."""

    @property
    def orders(self) -> Mapping[str, Mapping[str, float]]:
        """For names of `ORDERS` a value of each slide by image id; the highest is to be looked at first."""

    def predicted(self, image_id: str) -> str | None:
        """Return the label that the run gives a slide, None where it gives none."""

    def of_slide(self, image_id: str, document: Json) -> Json:
        """Return a slide's document with what the run says."""

    def of_cohort(self, document: Json) -> Json:
        """Return the cohort's document with what the run says."""


class Review:
    """The judgements of one collection of slides.

    Parameters
    ----------
    patients
        Whose slide each is, by image id: the slides that there are, in order.
    file
        Where judgements are kept; None: nobody can judge.
    opinions
        What a run says; None without a run.
    blind
        Whether it is hidden until judged.
    """

    def __init__(
        self, patients: Mapping[str, str], file: JudgementFile | None, opinions: Opinions | None, *, blind: bool
    ) -> None:
        self.patients, self.file, self.opinions, self.blind = dict(patients), file, opinions, blind
        self.classes = opinions.classes if opinions else ()

    def _all(self) -> list[Judgement]:
        return [own for own in self.file.all() if own.slide in self.patients] if self.file else []

    def own(self, reader: str | None) -> dict[str, Judgement]:
        """Return a reader's judgements that count, by slide."""
        return {slide: own for (slide, name), own in latest(self._all()).items() if name == reader}

    def hidden(self, image_id: str, reader: str | None) -> str | None:
        """Return in a sentence why what the run says of a slide is not shown to a reader; None where it is."""
        return self._hidden(image_id, reader, self.own(reader)) if self.blind and self.opinions else None

    def all_hidden(self, reader: str | None) -> dict[str, str]:
        """Return `hidden` of every slide that has one."""
        own = self.own(reader) if self.blind and self.opinions else {}
        told = {name: self._hidden(name, reader, own) for name in self.patients} if self.blind and self.opinions else {}
        return {name: why for name, why in told.items() if why}

    def _hidden(self, image_id: str, reader: str | None, judged: Mapping[str, Judgement]) -> str | None:
        if reader is None:
            return "Blind reading: type your name and judge the slide to see what the run says."
        patient = self.patients[image_id]
        left = [name for name, whose in self.patients.items() if whose == patient and name not in judged]
        if not left:
            return None
        others = [name for name in left if name != image_id]
        if not others:
            return "Blind reading: judge this slide to see what the run says."
        return f"Blind reading: judge every slide of this patient to see what the run says (also {', '.join(others)})."

    def judge(self, reader: str, told: Mapping[str, Any]) -> Judgement:
        """Keep a reader's judgement; ``told`` holds slide, verdict, label and note as they came.

        Raises
        ------
        RequestError
            Judgements cannot be kept here, or it is none.
        ClaimedError, OSError
            It could not be written.
        """
        if self.file is None:
            raise RequestError("judgements cannot be kept here: give --annotations FOLDER")
        slide, verdict = told.get("slide"), told.get("verdict")
        if not isinstance(slide, str) or slide not in self.patients:
            raise RequestError("slide: expected the id of a slide that is shown here")
        if verdict is None:
            verdict = "label"
        if verdict not in VERDICTS:
            raise RequestError(f"verdict: expected one of {', '.join(VERDICTS)}")
        label = check_text(told.get("label"), "label", MOST_LABEL)
        if label is not None and self.classes and label not in self.classes:
            raise RequestError(f"label: expected one of {', '.join(self.classes)}")
        predicted = self.opinions.predicted(slide) if self.opinions else None
        hidden = self.hidden(slide, reader) is not None
        verdict, label = self._settled(str(verdict), label, predicted, hidden=hidden)
        note = check_text(told.get("note"), "note", MOST_NOTE)
        facts: Json = {"slide": slide, "patient": self.patients[slide], "reader": reader, "note": note}
        return self.file.add(Made(verdict=verdict, label=label, blind=hidden, predicted=predicted, **facts))  # type: ignore[arg-type]

    def _settled(
        self, verdict: str, label: str | None, predicted: str | None, *, hidden: bool
    ) -> tuple[str, str | None]:
        """Return verdict and label as they are kept, each following from the other where it does."""
        if verdict == "unsure":
            return verdict, label
        if verdict == "label":
            if label is None:
                raise RequestError("label: expected what the slide is, in your opinion")
            return ("label" if predicted is None else "agree" if label == predicted else "disagree"), label
        if hidden:
            raise RequestError("what the run says is hidden: give a label of your own, or unsure")
        if self.opinions is None:
            raise RequestError("there is no run to agree or disagree with: give a label, or unsure")
        if verdict == "agree":
            return verdict, predicted
        if label is not None and label == predicted:
            raise RequestError(f"label: {label} is what the run says: agree, or give another one")
        return verdict, label

    def told(self, reader: str | None) -> Json:
        """Return the judgements, as JSON values, that a reader may see, and what they come to."""
        judgements = self._all()
        hidden = self.all_hidden(reader)
        counts = latest(judgements)
        seen = [asdict(own) for own in counts.values() if own.reader == reader or own.slide not in hidden]
        if hidden:
            seen = [own | ({"predicted": None} if own["slide"] in hidden else {}) for own in seen]
            seen = [own | ({"verdict": _veiled(own)} if own["slide"] in hidden else {}) for own in seen]
        readers = sorted({own.reader for own in judgements})
        done = Counter(name for _, name in counts)
        return {
            "judgements": seen,
            "readers": readers,
            "progress": {name: {"judged": done[name], "of": len(self.patients)} for name in readers},
            "kappa": [asdict(own) for own in agreements(judgements, blind=self.blind, labels=bool(self.classes))],
        }

    def shown(self, judgement: Judgement, reader: str | None) -> Json:
        """Return a reader's own judgement as JSON values, without what is hidden from the reader."""
        told = asdict(judgement)
        if self.hidden(judgement.slide, reader):
            told |= {"predicted": None, "verdict": _veiled(told)}
        return told

    def orders(self) -> list[tuple[str, str]]:
        """Return the orders that the worklist can have, and what each means."""
        known = self.opinions.orders if self.opinions else {}
        return [
            (key, name)
            for key, name in ORDERS.items()
            if key == "id" or (known.get(key) and not (self.blind and key in _TELLING))
        ]

    def worklist(self, order: str | None, reader: str | None) -> Json:
        """Return the slides in an order, as JSON values; without one, in the first that can be had.

        Raises
        ------
        RequestError
            There is no such order here.
        """
        orders = self.orders()
        chosen = order or orders[0][0]
        if chosen not in dict(orders):
            raise RequestError(f"order: expected one of {', '.join(dict(orders))}")
        values = self.opinions.orders.get(chosen, {}) if self.opinions else {}
        names = sorted(self.patients, key=lambda name: (-values.get(name, float("-inf")), name))
        own = self.own(reader)
        slides = [
            {
                "id": name,
                "value": None if self.blind else values.get(name),
                "done": name in own,
                "verdict": self.shown(own[name], reader)["verdict"] if name in own else None,
            }
            for name in names
        ]
        return {"order": chosen, "orders": orders, "slides": slides}

    def manifest(self) -> str:
        """Return the cohort as a table (CSV) for `gigamil train -m`, with corrected labels.

        A patient has one label: the one that most judgements of the patient's slides give, each reader's last ones;
        where none is given, or two are given as often, the label of before, and the table says so.
        """
        known = self.opinions.rows if self.opinions else {}
        rows = {name: known.get(name) or ManifestRow(name, whose) for name, whose in self.patients.items()}
        rows |= {name: row for name, row in known.items() if name not in rows}
        by_patient: dict[str, list[Judgement]] = {}
        for own in latest(self._all()).values():
            by_patient.setdefault(rows[own.slide].patient_id, []).append(own)
        return csv_text([HEADER, *(_exported(row, by_patient.get(row.patient_id, [])) for row in rows.values())])


def _veiled(told: Mapping[str, Any]) -> str:
    """Return a verdict that tells nothing of what the run says."""
    return "unsure" if told["verdict"] == "unsure" else "label"


def _exported(row: ManifestRow, judged: Sequence[Judgement]) -> tuple[str | None, ...]:
    label, correction = _corrected(row.label, [own.label for own in judged if own.label and own.verdict != "unsure"])
    readers = "; ".join(sorted({f"{own.reader}: {own.verdict}" for own in judged if own.slide == row.image_id}))
    notes = "; ".join(own.note for own in judged if own.slide == row.image_id and own.note)
    return row.image_id, row.patient_id, label, row.center_id, row.label, correction, readers, notes


def _corrected(before: str | None, labels: Iterable[str]) -> tuple[str | None, str]:
    """Return a patient's label, and what became of it."""
    (first, votes), *others = Counter(labels).most_common(2) or [("", 0)]
    if not votes:
        return before, "not judged"
    if others and others[0][1] == votes:
        return before, "readers differ: unchanged"
    return first, "confirmed" if first == before else "corrected"
