"""Several encoders as one: each tile is read once, and its feature vectors stand beside each other.

The name of the whole is that of its members, joined by ``+``: ``uni+virchow2``.
"""

import hashlib
from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor

from features.encoders.spec import Encoder, EncoderSpec, HalfEncoder, TunedEncoder
from features.encoders.tile_input import TileInput


class JointEncoder:
    """Runs its members one after the other on the same tiles; each resizes and normalises them for itself."""

    def __init__(self, members: Sequence[Encoder]) -> None:
        self.members = tuple(members)
        self._spec = _joined([member.spec for member in self.members])
        self._inputs = self._inputs_on(torch.device("cpu"))

    @property
    def spec(self) -> EncoderSpec:
        """What is known of it."""
        return self._spec

    def to(self, device: torch.device) -> Self:
        """Move the members' tensors to the device; return itself."""
        for member in self.members:
            member.to(device)
        self._inputs = self._inputs_on(device)
        return self

    def _inputs_on(self, device: torch.device) -> tuple[TileInput, ...]:
        return tuple(TileInput(member.spec, device) for member in self.members)

    def keep_channels_first(self) -> None:
        """Leave the members' tensors as (N, C, H, W) in memory; before `to`."""
        for member in self.members:
            if isinstance(member, TunedEncoder):
                member.keep_channels_first()

    def hold_in(self, dtype: torch.dtype) -> None:
        """Let the members that can keep their weights in half precision do so."""
        for member in self.members:
            if isinstance(member, HalfEncoder):
                member.hold_in(dtype)

    def apply_crop(self) -> bool:
        """Let the members that can take tiles as their own transforms do; False where none crops."""
        applied = [member.apply_crop() for member in self.members if isinstance(member, TunedEncoder)]
        self._spec = _joined([member.spec for member in self.members])
        self._inputs = self._inputs_on(torch.device("cpu"))
        return any(applied)

    def compile(self) -> None:
        """Let torch.compile make kernels for the members that it can be used for."""
        for member in self.members:
            if isinstance(member, TunedEncoder):
                member.compile()

    def encode(self, tiles_NCHW: Tensor) -> Tensor:
        """Return (N, sum of the members' dim); ``tiles_NCHW``: float32 (N, 3, T, T), RGB in [0, 1]."""
        pixels = (tiles_NCHW * 255).round_().to(torch.uint8)  # exact: they were uint8
        pairs = zip(self.members, self._inputs, strict=True)
        return torch.cat([member.encode(prepare(pixels)).float() for member, prepare in pairs], dim=1)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the members; what is cached for a device stays here."""
        return JointEncoder, (self.members,)


def _joined(specs: Sequence[EncoderSpec]) -> EncoderSpec:
    digest = hashlib.sha256("".join(spec.weights_sha256 for spec in specs).encode()).hexdigest()
    lineages = [spec.lineage for spec in specs if spec.lineage is not None]
    return EncoderSpec(
        name="+".join(spec.name for spec in specs),
        dim=sum(spec.dim for spec in specs),
        input_px=None,
        trained=all(spec.trained for spec in specs),
        weights_sha256=digest,
        licence="; ".join(dict.fromkeys(spec.licence for spec in specs)),
        description=" beside ".join(spec.description for spec in specs),
        precisions=tuple(p for p in specs[0].precisions if all(p in spec.precisions for spec in specs)),
        caution="; ".join(spec.caution for spec in specs if spec.caution),
        lineage=lineages[0] if lineages else None,
        members=tuple(specs),
    )
