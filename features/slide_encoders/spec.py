"""The slide encoder: a bag of tiles in, one vector out. The protocol, and what is known of a slide encoder."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from features.bags.bag import BagHeader
from features.encoders.lineage import Lineage
from wsi.arrays import Floats
from wsi.errors import RequestError
from wsi.recipe import Recipe

if TYPE_CHECKING:  # pools need no torch
    import torch

KEY = "slide_encoder"
"""Of a bag's recipe: there where its one row stands for the slide, and tells what made it."""
SCALE_TOLERANCE = 0.2
"""As `features.encoders.spec.MPP_TOLERANCE`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SlideSpec:
    """What is known of a slide encoder."""

    name: str
    """As the user wrote it, or ``run-<hash>`` of a run's."""
    trained: bool
    """False for pools, which learn nothing, and for random weights."""
    licence: str
    description: str
    made_of: Recipe = field(default_factory=dict)
    """What tells its vectors from those of others of that name: JSON values."""
    tile_encoders: tuple[str, ...] = ()
    """Names of the tile encoder that it was made for, ours first, then other tools'; empty: any."""
    mpp: float | None = None
    """um/px of the tiles that it was made for."""
    tile_um: float | None = None
    """Side of these tiles, um."""
    caution: str = ""
    """One line to show to whoever uses the vectors; empty where nothing needs saying."""
    lineage: Lineage | None = None
    """Whom its weights have seen, where they were trained here."""

    def recipe(self) -> Recipe:
        """Return what shapes the vectors: JSON values."""
        return {"name": self.name, **self.made_of}

    def check(self, header: BagHeader, *, off_recipe: bool) -> None:
        """Refuse a bag that the encoder cannot take: of slides, of another tile encoder, of tiles of another scale.

        ``off_recipe`` allows another scale.

        Raises
        ------
        RequestError
            The message tells what was expected and found.
        """
        refuse_vector(header)
        if self.tile_encoders and header.encoder not in self.tile_encoders:
            raise RequestError(
                f"encoder {self.name} was made for bags of {self.tile_encoders[0]}, found "
                f"{header.encoder or 'no encoder named'} in {header.path}: extract with that encoder"
            )
        if off_recipe or self.mpp is None or self.tile_um is None or not (header.mpp and header.tile_px):
            return
        found_um = header.mpp * header.tile_px
        if max(abs(header.mpp / self.mpp - 1), abs(found_um / self.tile_um - 1)) > SCALE_TOLERANCE:
            raise RequestError(
                f"encoder {self.name} was made for tiles of {self.tile_um:g} um at {self.mpp:g} um/px, found "
                f"{found_um:g} um at {header.mpp:g} um/px in {header.path}: tile with --mpp {self.mpp:g} "
                f"--tile-px {self.tile_um / self.mpp:.0f}, or say --off-recipe"
            )


def refuse_vector(header: BagHeader) -> None:
    """Raise `RequestError` where a bag holds one vector for the slide: its row is no tile, and lies nowhere on it."""
    if KEY in header.recipe:
        raise RequestError(f"{header.path} holds one vector for the slide already: expected a bag of tiles")


class SlideEncoder(Protocol):
    """A frozen function from the bag of a slide's tiles to one vector."""

    @property
    def spec(self) -> SlideSpec:
        """What is known of it."""

    def check(self, header: BagHeader, *, off_recipe: bool) -> None:
        """Refuse a bag that it cannot take, as `SlideSpec.check` does; before any is read."""

    def to(self, device: "torch.device") -> None:
        """Move its tensors to the device."""

    def encode(self, header: BagHeader) -> Floats:
        """Return the vector (dim,), float64, of a bag with one tile or more.

        Raises
        ------
        BagError
            The bag is damaged, or does not tell what is needed of it.
        OSError
            The storage fails.
        """

    def width(self, tiles_dim: int) -> int:
        """Return the vector's length, of tile features of that width."""


def about(spec: SlideSpec, header: BagHeader, dim: int) -> dict[str, Any]:
    """Return what a bag's provenance tells of its encoder, of a vector made of a bag: as `EncoderSpec.as_dict` does.

    What the tile bag told of its own encoder, lineage included, stands under ``tiles``.
    """
    tiles = header.provenance.get("encoder")
    known: dict[str, Any] = tiles if isinstance(tiles, dict) else {}
    cautions = [str(own) for own in (spec.caution, known.get("caution")) if own]
    licences = [str(own) for own in (known.get("licence"), spec.licence) if own]
    trained = True if spec.trained else known.get("trained")
    told: dict[str, Any] = {
        "name": full_name(spec, header),
        "dim": dim,
        **({} if trained is None else {"trained": trained}),
        "licence": "; ".join(dict.fromkeys(licences)),
        "description": "; of tiles: ".join(filter(None, (spec.description, str(known.get("description", ""))))),
        "caution": "; ".join(cautions),
        "weights_sha256": spec.made_of.get("weights_sha256", ""),
        "slide": spec.recipe(),
        "tiles": tiles,
    }
    return told if spec.lineage is None else {**told, "lineage": spec.lineage.as_dict()}


def full_name(spec: SlideSpec, header: BagHeader) -> str:
    """Return the name that a bag of slide vectors bears: ``mean@texture``."""
    return f"{spec.name}@{header.encoder}" if header.encoder else spec.name
