"""What targets without classes have in common, and how their cells are read."""

from abc import abstractmethod
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from mil.targets.base import SlideRow, Target
from mil.targets.calibration import Calibration
from wsi.arrays import Floats, Ints
from wsi.cohort.manifest import ManifestRow
from wsi.errors import ManifestError, RequestError

if TYPE_CHECKING:
    from torch import Tensor

BINS = 4
"""Of values, and of times, for folds that resemble each other."""
RIDGE = 0.01
"""Of a linear model's squared weights, beside its mean loss."""


class Unclassed(Target):
    """A target without classes: all patients count alike, and its outputs are told as they are, or as log odds."""

    logistic: ClassVar[bool] = False
    """Outputs are log odds."""

    @classmethod
    def check_patients(cls, rows: Sequence[ManifestRow], source: str) -> None:
        first: dict[str, object] = {}
        for row in rows:
            if first.setdefault(row.patient_id, cls.cell(row)) != cls.cell(row):
                raise ManifestError(f"patient {row.patient_id}: expected one {cls.kind} for all slides, found two")

    @classmethod
    @abstractmethod
    def cell(cls, row: ManifestRow) -> object:
        """Return what is true of a slide, to be compared."""

    @property
    def groups(self) -> tuple[str, ...]:
        return ()

    @property
    def groups_N(self) -> Ints:
        return np.zeros(len(next(iter(self.arrays().values()))), np.int64)

    def validation(self, slides: Ints, outputs_PC: Floats) -> dict[str, float]:
        return {"loss": self.mean_loss(slides, outputs_PC)}

    @classmethod
    def told(cls, outputs_NC: Floats, calibration: Calibration) -> Floats:
        outputs_NC = calibration.moved(outputs_NC)
        return np.asarray(0.5 * (1 + np.tanh(0.5 * outputs_NC))) if cls.logistic else outputs_NC

    @classmethod
    def in_graph(cls, logits_MC: "Tensor", calibration: Calibration) -> "tuple[Tensor, Tensor]":
        logits_C = logits_MC.mean(dim=0)
        if calibration.shift:
            return logits_C, logits_C + logits_C.new_tensor(calibration.shift)
        return logits_C, logits_C.sigmoid() if cls.logistic else logits_C * 1.0  # an output of its own

    @classmethod
    def formula(cls, calibration: Calibration, n_outputs: int) -> str:
        if calibration.shift:
            return f"logits + {[float(f'{value:.9g}') for value in calibration.shift]}"
        return "1 / (1 + exp(-logits))" if cls.logistic else "logits"

    @classmethod
    def comparable(cls, logits_NC: Floats) -> Floats:
        return logits_NC

    @classmethod
    def mean(cls, tables: Sequence[Floats]) -> Floats:
        return np.asarray(np.mean(tables, axis=0))

    def linear(self, seen_ND: Floats, asked_MD: Floats) -> Floats | None:
        import torch

        try:
            own = self.fitted(np.arange(len(seen_ND)))
        except RequestError:  # nothing differs among so few
            return None
        mean_D, spread_D = seen_ND.mean(axis=0), seen_ND.std(axis=0) + 1e-9
        seen, asked = (
            torch.from_numpy(np.column_stack([(own - mean_D) / spread_D, np.ones(len(own))]))
            for own in (seen_ND, asked_MD)
        )
        truth = own.batch(np.arange(len(seen_ND)), "cpu")
        weights = torch.zeros(seen.shape[1], own.n_outputs, dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.LBFGS([weights], max_iter=100)

        def cost() -> float:
            optimizer.zero_grad()
            total = truth.loss(seen @ weights).mean() + RIDGE * weights[:-1].square().sum()
            total.backward()
            return float(total.detach())

        optimizer.step(cost)
        return np.asarray((asked @ weights.detach()).numpy() * own.spread + own.center)

    @classmethod
    def turns(cls, slides: Sequence[SlideRow], names: Sequence[str]) -> list[list[str]]:
        """Return the slides from the highest of the first output on, from the lowest, and from the middle."""
        output = f"p_{names[0]}"
        ranked = [row["image_id"] for row in sorted(slides, key=lambda row: (float(row[output]), row["image_id"]))]
        middle = sorted(range(len(ranked)), key=lambda place: abs(2 * place - len(ranked) + 1))
        return [ranked[::-1], ranked, [ranked[place] for place in middle]]

    @classmethod
    def telling(
        cls, slides: Sequence[SlideRow], names: Sequence[str], each: int, mistakes: int
    ) -> list[tuple[str, str]]:
        """Return the slides told the highest and the lowest of the first output, then those with the largest errors."""
        highest, lowest, _ = cls.turns(slides, names)
        told_SC = np.array([[float(row[f"p_{name}"]) for name in names] for row in slides]).reshape(-1, len(names))
        folds_S = np.array([int(row["fold"]) for row in slides], np.int64)
        judged = dict(
            zip((row["image_id"] for row in slides), cls.of_cells(slides, names).judged(told_SC, folds_S), strict=True)
        )
        far = sorted((own for own in judged if judged[own].error), key=lambda own: (-(judged[own].error or 0), own))
        found = dict[str, str]()
        for end, ranked in (("High", highest[:each]), ("Low", lowest[:each]), ("Far off", far[:mistakes])):
            for image_id in ranked:
                own = judged[image_id]
                found.setdefault(image_id, f"{end}: predicted {own.told}; true: {own.truth or 'unknown'}")
        return list(found.items())


def alike_strata(strata: Sequence[str], rows: Sequence[ManifestRow], n_folds: int) -> list[str]:
    """Return the strata, those with fewer patients than folds put together.

    Raises
    ------
    RequestError
        Fewer than two patients for each fold.
    """
    patients = [row.patient_id for row in rows]
    if len(set(patients)) < 2 * n_folds:
        raise RequestError(f"expected {2 * n_folds} or more patients for {n_folds} folds, found {len(set(patients))}")
    count = Counter(dict(zip(patients, strata, strict=True)).values())
    return [own if count[own] >= n_folds else "rare" for own in strata]


def binned(values_N: Floats) -> list[str]:
    """Return the quarter of the values that each stands in."""
    edges = np.quantile(values_N, np.arange(1, BINS) / BINS)
    return [str(part) for part in np.searchsorted(edges, values_N, side="right").tolist()]


def parse_values(cells: Sequence[str | None], column: str, slides: Sequence[str] = ()) -> Floats:
    """Return (N,) float64 from cells; NaN for an empty one. ``slides``: whose they are, to be named.

    Raises
    ------
    ManifestError
        A cell that is not a finite number.
    """
    values = []
    for row, cell in enumerate(cells):
        try:
            values.append(float(cell) if cell else np.nan)
        except ValueError:
            raise ManifestError(f"{of_slide(slides, row)}{column} {cell!r}: expected a number") from None
        if cell and not np.isfinite(values[-1]):
            raise ManifestError(f"{of_slide(slides, row)}{column} {cell!r}: expected a finite number")
    return np.array(values, np.float64)


def of_slide(slides: Sequence[str], row: int) -> str:
    """Return the beginning of a message on the slide of a row; nothing where slides are not given."""
    return f"slide {slides[row]}: " if slides else ""
