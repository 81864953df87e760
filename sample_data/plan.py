"""Who is in the sample cohort: patients, centers, classes, slides. Decided before anything is painted."""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from sample_data.options import SampleOptions
from sample_data.spec import CENTERS, Kind, Label, SlideSpec

_CENTER_SHARE = (0.45, 0.33, 0.22)
_LAA_SHARE = (0.22, 0.31, 0.44)
_SLIDES_SHARE = (0.82, 0.13, 0.05)
_TINY_SHARE_PX = 640_000


@dataclass(frozen=True, slots=True)
class PlannedSlide:
    """One row of train.csv or test.csv, and how its slide is painted."""

    image_id: str
    patient_id: str
    image_num: int
    split: Literal["train", "test"]
    spec: SlideSpec


@dataclass(frozen=True, slots=True)
class _Patient:
    patient_id: str
    center_id: str
    label: Label
    slides: int
    split: Literal["train", "test"]


def plan_cohort(options: SampleOptions) -> list[PlannedSlide]:
    """Return every slide of the cohort, sorted by image id; the same options give the same plan."""
    rng = np.random.default_rng([options.seed, 0])
    patients = _patients(rng, options.patients, "train") + _patients(rng, max(2, options.patients // 10), "test")
    named = [replace(p, patient_id=name) for p, name in zip(patients, _patient_ids(rng, len(patients)), strict=True)]
    slides = [(patient, number) for patient in named for number in range(patient.slides)]
    planned = [
        PlannedSlide(
            f"{patient.patient_id}_{number}", patient.patient_id, number, patient.split, _spec(options, index, patient)
        )
        for index, (patient, number) in enumerate(slides)
    ]
    return sorted(_with_odd_ones(planned), key=lambda slide: slide.image_id)


def _patients(rng: np.random.Generator, count: int, split: Literal["train", "test"]) -> list[_Patient]:
    """Return patients without names: centers in fixed shares, both classes at each center where there is room."""
    bounds = np.rint(np.cumsum((0.0, *_CENTER_SHARE)) * count).astype(int)
    patients = []
    for center_id, laa_share, first, last in zip(CENTERS, _LAA_SHARE, bounds[:-1], bounds[1:], strict=True):
        size = int(last - first)
        laa = min(max(1, round(laa_share * size)), max(0, size - 1))
        patients += [
            _Patient("", center_id, "LAA" if i < laa else "CE", 1 + int(rng.choice(3, p=_SLIDES_SHARE)), split)
            for i in range(size)
        ]
    return patients


def _patient_ids(rng: np.random.Generator, count: int) -> list[str]:
    """Return different 6-character ids: hexadecimal, every fifth all digits with a leading zero."""
    names: dict[str, None] = {}
    while len(names) < count:
        if len(names) % 5 == 0:
            names[f"0{rng.integers(10_000, 100_000)}"] = None
        else:
            names[f"{rng.integers(0x100000, 0xFFFFFF):06x}"] = None
    return list(names)


def _spec(options: SampleOptions, index: int, patient: _Patient) -> SlideSpec:
    """Draw a slide's size and tissue share; neither knows the class."""
    rng = np.random.default_rng([options.seed, 1, index])
    spread = options.size - options.min_px
    height, width = (int(options.min_px + spread * share) for share in rng.beta(1.0, 3.6, 2))
    return SlideSpec(
        height_px=height,
        width_px=width,
        label=patient.label,
        center_id=patient.center_id,
        seed=(options.seed, 4, index),
        tissue_share=float(rng.uniform(0.10, 0.35)),
    )


def _with_odd_ones(planned: list[PlannedSlide]) -> list[PlannedSlide]:
    """Make one training slide green, one almost empty, one BigTIFF, and about one in twelve a JPEG pyramid.

    They are spread evenly over the list, which is ordered by center and class.
    """
    train = [i for i, slide in enumerate(planned) if slide.split == "train"]
    odd = 3 + max(1, round(len(train) / 12))
    chosen = [train[int((number + 0.5) * len(train) / odd)] for number in range(odd)]
    green, tiny, big = chosen[odd // 2], chosen[0], chosen[-1]
    result = list(planned)
    for i in chosen:
        spec = planned[i].spec
        kind: Kind = "deflate" if i in (green, tiny, big) else "jpeg-pyramid"
        share = _TINY_SHARE_PX / (spec.height_px * spec.width_px) if i == tiny else spec.tissue_share
        changed = replace(
            spec,
            kind=kind,
            bigtiff=i == big,
            background="green" if i == green else "plain",
            tissue_share=min(share, 0.35),
        )
        result[i] = replace(planned[i], spec=changed)
    return result
