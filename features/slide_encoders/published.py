"""Published slide encoders: their networks, with weights from a file or the hub."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

from features.bags.bag import BagHeader, feature_rows, read_coords
from features.encoders.hub import fetched
from features.encoders.lineage import read_lineage
from features.encoders.spec import WeightsChoice
from features.encoders.weights import load_weights, weights_sha256
from features.slide_encoders.gated import Chief, Feather, Madeleine
from features.slide_encoders.longnet import GRID, LongNet
from features.slide_encoders.presets import SLIDE_PRESETS, Network, SlidePreset
from features.slide_encoders.spec import SlideSpec
from wsi.arrays import Floats, Ints
from wsi.errors import BagError, RequestError

NETWORKS: Mapping[Network, Callable[[int], nn.Module]] = {
    "chief": Chief,
    "feather": Feather,
    "madeleine": Madeleine,
    "longnet-768": partial(LongNet, dim=768),
    "longnet-384": partial(LongNet, dim=384),
}
"""From the width of the tile features."""


class PublishedSlideEncoder:
    """A published network on its device, in float32."""

    def __init__(self, name: str, weights: WeightsChoice) -> None:
        preset = SLIDE_PRESETS[name]
        if weights.random_seed is not None:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(weights.random_seed)
                model = NETWORKS[preset.network](preset.tiles_dim)
        else:
            model = NETWORKS[preset.network](preset.tiles_dim)
            load_weights(model, weights.file or _published(name, preset), model.unused)  # type: ignore[arg-type]
        self._model, self._preset = model.eval().requires_grad_(requires_grad=False), preset
        self._device = torch.device("cpu")
        self.spec = _spec(name, preset, weights, weights_sha256(model))

    def check(self, header: BagHeader, *, off_recipe: bool) -> None:
        self.spec.check(header, off_recipe=off_recipe)
        if header.dim != self._preset.tiles_dim:
            raise RequestError(
                f"encoder {self.spec.name} takes {self._preset.tiles_dim} features a tile, found {header.dim} in "
                f"{header.path}"
            )

    def to(self, device: torch.device) -> None:
        """Move the network to the device."""
        self._model, self._device = self._model.to(device), device

    def width(self, tiles_dim: int) -> int:
        return self._preset.dim

    @torch.inference_mode()
    def encode(self, header: BagHeader) -> Floats:
        rows_ND = torch.from_numpy(np.array(feature_rows(header.path), np.float32)).to(self._device)
        places_N2 = places(header) if self._preset.placed else np.zeros((header.n_tiles, 2), np.int64)
        vector = self._model(rows_ND, torch.from_numpy(places_N2).to(self._device))
        return np.asarray(vector.double().cpu().numpy())


def places(header: BagHeader) -> Ints:
    """Return the column and row (N, 2) of each tile, (x, y), in whole tiles from the slide's corner.

    Raises
    ------
    BagError
        The bag does not tell its tiles' size or places, has several rows for a tile, or a place is beyond `GRID`.
    """
    if not header.tile_px_l0:
        raise BagError(f"{header.path}: expected level-0 pixels per tile side, which places need, found none")
    l0_yx = read_coords(header.path)
    # half a pixel: corners were rounded to whole pixels where tiles have none
    found = np.floor((l0_yx[:, ::-1] + 0.5) / header.tile_px_l0).astype(np.int64)
    if len(found) and not (found.min() >= 0 and found.max() < GRID):
        raise BagError(f"{header.path}: expected tiles within {GRID} x {GRID} places, found one beyond")
    if len(np.unique(l0_yx, axis=0)) < len(l0_yx):
        raise BagError(f"{header.path}: expected one row for each tile, found several (--keep-views)")
    return found


def _published(name: str, preset: SlidePreset) -> Path:
    if not preset.hub:
        raise RequestError(
            f"encoder {name}: its authors give the weights outside the hub ({preset.source}): give their file by "
            "--weights FILE, or --random-weights SEED for untrained vectors"
        )
    return fetched(name, preset.hub, preset.hub_file)


def _spec(name: str, preset: SlidePreset, weights: WeightsChoice, sha256: str) -> SlideSpec:
    untrained = weights.random_seed is not None
    caution = f"{name} has random weights (seed {weights.random_seed}): untrained, its vectors mean nothing learnt"
    return SlideSpec(
        name=name,
        trained=not untrained,
        licence=preset.licence,
        description=f"published slide encoder, {preset.source}",
        made_of={"weights_sha256": sha256},
        tile_encoders=preset.tile_encoders,
        mpp=preset.mpp,
        tile_um=preset.tile_um,
        caution=caution if untrained else "",
        lineage=read_lineage(weights.file) if weights.file else None,
    )
