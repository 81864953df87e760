"""MIL heads, one paper a file. To add one: write the file, name it here; the contract tests then run on it."""

from mil.heads.gated_abmil import GatedAbmil
from mil.heads.head import Head, HeadOutput, HeadSpec
from mil.heads.mean_pool import MeanPool
from wsi.errors import RequestError

__all__ = ["HEADS", "Head", "HeadOutput", "HeadSpec", "has_attention", "make_head"]

HEADS: dict[str, type[Head]] = {"gated_abmil": GatedAbmil, "mean_pool": MeanPool}


def make_head(spec: HeadSpec) -> Head:
    """Build the head that the spec names, or raise `RequestError`."""
    if spec.name not in HEADS:
        raise RequestError(f"unknown head {spec.name!r}: expected one of {', '.join(HEADS)}")
    return HEADS[spec.name](spec)


def has_attention(name: str) -> bool:
    """Tell whether the head weighs instances."""
    return HEADS[name].attends
