"""MIL heads, one paper a file. To add one: write the file, name it here; the contract tests then run on it."""

from mil.heads.abmil import Abmil, GatedAbmil
from mil.heads.acmil import Acmil
from mil.heads.additive import Additive
from mil.heads.clam import ClamMb, ClamSb
from mil.heads.dsmil import Dsmil
from mil.heads.dtfd import Dtfd
from mil.heads.head import Head, HeadOutput, HeadSpec, Truth
from mil.heads.max_pool import MaxPool
from mil.heads.mean_mlp import MeanMlp
from mil.heads.mean_pool import MeanPool
from mil.heads.parts.output import dynamic_margins
from mil.heads.transformer import Transformer
from mil.heads.transmil import TransMil
from wsi.errors import RequestError

__all__ = [
    "HEADS",
    "Head",
    "HeadOutput",
    "HeadSpec",
    "Truth",
    "check_head",
    "dynamic_margins",
    "has_attention",
    "has_embedding",
    "make_head",
]

HEADS: dict[str, type[Head]] = {
    "gated_abmil": GatedAbmil,
    "abmil": Abmil,
    "mean_pool": MeanPool,
    "mean_mlp": MeanMlp,
    "max_pool": MaxPool,
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
    return HEADS[spec.name](spec)


def check_head(name: str, output: str) -> None:
    """Raise `RequestError` unless there is such a head, and it can have that last layer."""
    if name not in HEADS:
        raise RequestError(f"unknown head {name!r}: expected one of {', '.join(HEADS)}")
    if output != "linear" and not has_embedding(name):
        wanted = ", ".join(own for own in HEADS if has_embedding(own))
        raise RequestError(f"head {name} has no single point for a bag, which {output} needs: use {wanted}")


def has_attention(name: str) -> bool:
    """Tell whether the head weighs instances."""
    return HEADS[name].attends


def has_embedding(name: str) -> bool:
    """Tell whether the head makes one point of a bag: what ArcFace and look-up by likeness need."""
    return HEADS[name].has_point
