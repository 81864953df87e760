"""MIL heads, one paper a file. To add one: write the file, name it here; the contract tests then run on it."""

from typing import TypeGuard

from mil.heads.abmil import Abmil, GatedAbmil
from mil.heads.acmil import Acmil
from mil.heads.additive import Additive
from mil.heads.clam import ClamMb, ClamSb
from mil.heads.dsmil import Dsmil
from mil.heads.dtfd import Dtfd
from mil.heads.head import Explains, Head, HeadOutput, HeadSpec, Truth
from mil.heads.linear import Linear
from mil.heads.max_pool import MaxPool
from mil.heads.mean_mlp import MeanMlp
from mil.heads.mean_pool import MeanPool
from mil.heads.parts.output import dynamic_margins
from mil.heads.transformer import Transformer
from mil.heads.transmil import TransMil
from wsi.errors import RequestError
from wsi.plugins import load_plugin, plugins

__all__ = [
    "HEADS",
    "Explains",
    "Head",
    "HeadOutput",
    "HeadSpec",
    "Truth",
    "check_head",
    "dynamic_margins",
    "has_attention",
    "has_embedding",
    "head_class",
    "make_head",
]

ENTRY_POINTS = "gigamil.heads"
HEADS: dict[str, type[Head]] = {
    "gated_abmil": GatedAbmil,
    "abmil": Abmil,
    "mean_pool": MeanPool,
    "mean_mlp": MeanMlp,
    "max_pool": MaxPool,
    "linear": Linear,
    "additive": Additive,
    "clam_sb": ClamSb,
    "clam_mb": ClamMb,
    "dsmil": Dsmil,
    "transmil": TransMil,
    "dtfd": Dtfd,
    "acmil": Acmil,
    "transformer": Transformer,
}


def make_head(spec: HeadSpec) -> Head:
    """Build the head that the spec names, or raise `RequestError`."""
    check_head(spec.name, spec.output)
    return head_class(spec.name)(spec)


def head_class(name: str) -> type[Head]:
    """Return the head of that name, ours or another package's, or raise `RequestError`.

    Other packages add theirs by the entry-point group ``gigamil.heads``, and are imported only where their own is asked
    for; `mil.heads.contract` is the suite that each head passes.
    """
    if name in HEADS:
        return HEADS[name]
    points = plugins(ENTRY_POINTS)
    if name not in points:
        raise RequestError(f"unknown head {name!r}: expected one of {', '.join([*HEADS, *points])}")
    return load_plugin(points[name], _is_head, "a class that derives from mil.heads.Head")


def _is_head(found: object) -> TypeGuard[type[Head]]:
    return isinstance(found, type) and issubclass(found, Head)


def check_head(name: str, output: str) -> None:
    """Raise `RequestError` unless there is such a head, and it can have that last layer."""
    known = head_class(name)
    if output != "linear" and not known.has_point:
        wanted = ", ".join(own for own in HEADS if has_embedding(own))
        raise RequestError(f"head {name} has no single point for a bag, which {output} needs: use {wanted}")


def has_attention(name: str) -> bool:
    """Tell whether the head weighs instances."""
    return head_class(name).attends


def has_embedding(name: str) -> bool:
    """Tell whether the head makes one point of a bag: what ArcFace and look-up by likeness need."""
    return head_class(name).has_point
