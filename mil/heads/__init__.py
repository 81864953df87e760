"""MIL heads, one paper a file. To add one: write the file, name it here; the contract tests then run on it."""

from mil.heads.abmil import Abmil
from mil.heads.acmil import Acmil
from mil.heads.additive import Additive
from mil.heads.clam import ClamMb, ClamSb
from mil.heads.dsmil import Dsmil
from mil.heads.dtfd import Dtfd
from mil.heads.gated_abmil import GatedAbmil
from mil.heads.head import Head, HeadOutput, HeadSpec, Truth
from mil.heads.max_pool import MaxPool
from mil.heads.mean_mlp import MeanMlp
from mil.heads.mean_pool import MeanPool
from mil.heads.output import dynamic_margins
from mil.heads.transformer import Transformer
from mil.heads.transmil import TransMil
from wsi.errors import RequestError

__all__ = [
    "HEADS",
    "Head",
    "HeadOutput",
    "HeadSpec",
    "Truth",
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
_WITHOUT_POINT = frozenset({"max_pool", "additive", "clam_mb", "dsmil"})


def make_head(spec: HeadSpec) -> Head:
    """Build the head that the spec names, or raise `RequestError`."""
    if spec.name not in HEADS:
        raise RequestError(f"unknown head {spec.name!r}: expected one of {', '.join(HEADS)}")
    if spec.output != "linear" and not has_embedding(spec.name):
        wanted = ", ".join(name for name in HEADS if has_embedding(name))
        raise RequestError(f"head {spec.name} has no single point for a bag, which {spec.output} needs: use {wanted}")
    return HEADS[spec.name](spec)


def has_attention(name: str) -> bool:
    """Tell whether the head weighs instances."""
    return HEADS[name].attends


def has_embedding(name: str) -> bool:
    """Tell whether the head makes one point of a bag: what ArcFace and look-up by likeness need."""
    return name not in _WITHOUT_POINT
