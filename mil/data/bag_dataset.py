"""Bags as a PyTorch `Dataset`, and ragged batches of them: rows and offsets, never padded."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from features.bags.bag import BagHeader, read_coords
from features.bags.rows import StoredRows
from mil.data.cohort import scan_bags
from mil.ragged.packing import Packed, pack
from wsi.cohort.manifest import load_manifest
from wsi.errors import BagError, RequestError


class BagItem(NamedTuple):
    """One bag as `BagDataset` gives it."""

    rows_ND: Tensor
    """(n, D) features, as they are stored: float16 or float32."""
    l0_yx: Tensor
    """(n, 2) int64, the tiles' top-left corners (y, x) in level-0 pixels of the slide."""
    label: int
    """Position in the data set's ``classes``; -1 where the manifest gives none."""
    patient_id: str
    image_id: str


@dataclass(frozen=True, slots=True)
class BagBatch:
    """A batch of bags; bag b has the rows ``offsets[b]`` to ``offsets[b + 1]``."""

    rows_ND: Tensor
    """(N, D) features of all bags, one after another."""
    offsets: tuple[int, ...]
    """B + 1 row numbers, from 0 to N."""
    l0_yx: Tensor
    """(N, 2) int64."""
    labels_B: Tensor
    """(B,) int64."""
    patient_ids: tuple[str, ...]
    image_ids: tuple[str, ...]

    def pin_memory(self) -> "BagBatch":
        """Return the batch in page-locked memory; `DataLoader` asks for it where it is told ``pin_memory``."""
        rows, places, labels = (own.pin_memory() for own in (self.rows_ND, self.l0_yx, self.labels_B))
        return BagBatch(rows, self.offsets, places, labels, self.patient_ids, self.image_ids)


class BagDataset(Dataset[BagItem]):
    """The slides of a manifest that have a bag, in the manifest's order.

    Map-style, picklable; each worker reads the bags by itself, checks each once and keeps none open. With
    ``DataLoader(bags, 8, collate_fn=bags.collate)`` bags of unequal length are one batch.

    Parameters
    ----------
    bags
        Bags (``*.h5``), or folders of them, all made by one recipe.
    manifest
        The cohort table: image_id, patient_id, label.
    classes
        Order of the classes; empty: the labels of the manifest, sorted.

    Raises
    ------
    RequestError
        The manifest cannot be used, no bag belongs to it, or the bags were not made alike.
    BagError
        A bag cannot be read; the message names it.
    """

    def __init__(
        self, bags: Path | str | Sequence[Path | str], manifest: Path | str, classes: Sequence[str] = ()
    ) -> None:
        rows = load_manifest(Path(manifest))
        paths = [Path(own) for own in ([bags] if isinstance(bags, Path | str) else bags)]
        found = scan_bags(paths, [row.image_id for row in rows])
        for reason in found.failures.values():
            raise BagError(reason)
        self.rows = tuple(row for row in rows if row.image_id in found.headers)
        self.headers: tuple[BagHeader, ...] = tuple(found.headers[row.image_id] for row in self.rows)
        labels = {row.label for row in self.rows if row.label is not None}
        self.classes = tuple(classes) or tuple(sorted(labels))
        if unknown := sorted(labels - set(self.classes)):
            raise RequestError(f"{manifest}: labels {', '.join(unknown)} are not among {', '.join(self.classes)}")
        self._stored = tuple(StoredRows(header) for header in self.headers)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> BagItem:
        row, header = self.rows[index], self.headers[index]
        label = -1 if row.label is None else self.classes.index(row.label)
        rows_ND = torch.from_numpy(self._stored[index].read())
        return BagItem(rows_ND, torch.from_numpy(read_coords(header.path)), label, row.patient_id, row.image_id)

    @staticmethod
    def collate(items: Sequence[BagItem]) -> BagBatch:
        """Return the bags as one batch, in their order; `BagError` where one has no tiles."""
        packed: Packed = pack([item.rows_ND.numpy() for item in items], names=[item.image_id for item in items])
        return BagBatch(
            packed.rows_ND,
            packed.offsets,
            torch.cat([item.l0_yx for item in items]),
            torch.tensor([item.label for item in items]),
            tuple(item.patient_id for item in items),
            tuple(item.image_id for item in items),
        )
