"""Ranks on different machines: what they run on, and whether they can work on one job.

Device and precision belong to the job, not to a rank: features of half the tiles in bf16 and of half in fp32 would be
one bag of two kinds. So the ranks tell each other, before any work, and all come to one answer.
"""

import socket
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from features.distributed import Group, torchrun_place
from wsi.errors import RequestError


@dataclass(frozen=True, slots=True)
class RankFacts:
    """What a rank would run on."""

    host: str
    kind: str
    """``cpu`` or ``cuda``."""
    gpu: str = ""
    """Name of the GPU."""
    bf16: bool = True
    """Whether it computes in bf16."""
    precision: str = ""
    """What it would compute in; empty where that is decided later."""


def facts_of(device: torch.device, precision: str = "") -> RankFacts:
    """Return the facts of this process on that device."""
    if device.type != "cuda":
        return RankFacts(socket.gethostname(), device.type, precision=precision)
    with torch.cuda.device(device):
        able, name = torch.cuda.is_bf16_supported(), torch.cuda.get_device_name(device)
    return RankFacts(socket.gethostname(), "cuda", name, able, precision)


def disagreement(ranks: Sequence[RankFacts]) -> str:
    """Return in one line why the ranks cannot work on one job, and what to do; nothing where they can."""
    first = ranks[0]
    for number, rank in enumerate(ranks):
        where, there = f"rank {number} (on {rank.host})", f"rank 0 (on {first.host})"
        if rank.kind != first.kind:
            return f"{where} would run on {rank.kind}, and {there} on {first.kind}: give all the same --device"
        if rank.precision != first.precision:
            return (
                f"{where} would compute in {rank.precision} on {rank.gpu or rank.kind}, and {there} in "
                f"{first.precision} on {first.gpu or first.kind}: give --precision fp32, or one that all have"
            )
        if rank.precision == "bf16" and not rank.bf16:
            return f"{where}: its GPU ({rank.gpu}) has no bf16, which is the job's: give --precision fp32"
    return ""


def agree(group: Group, own: RankFacts) -> None:
    """Return where all ranks can work on one job; all of them ask.

    Raises
    ------
    RequestError
        They cannot. Under torchrun rank 0 tells; the others end quietly, for it is one job and one line.
    """
    told = disagreement(group.from_all(own))
    if told and group.place.rank and torchrun_place() is not None:
        raise SystemExit(0)
    if told:
        raise RequestError(told)
