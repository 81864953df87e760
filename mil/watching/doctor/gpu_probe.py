"""What torch says of the GPUs, as one JSON line; run in a process of its own."""

import json
import os
import sys
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed import HashStore  # type: ignore[attr-defined]


def probe() -> None:
    """Print it."""
    found: dict[str, Any] = {"torch": torch.__version__, "cuda": torch.version.cuda, "cards": [], "nccl": "", "why": ""}
    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:
        found["why"] = (str(error).splitlines() or [""])[0]
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    found["cards"] = [_card(index) for index in range(count)]
    if count:
        found["nccl"] = _nccl()
    sys.stdout.write(json.dumps(found) + "\n")


def _card(index: int) -> dict[str, Any]:
    card: dict[str, Any] = {"index": index, "name": "?"}
    try:
        card["name"] = torch.cuda.get_device_name(index)
        card["free"], card["total"] = torch.cuda.mem_get_info(index)
        generator = torch.Generator().manual_seed(0)
        left, right = (torch.randn(256, 256, generator=generator, dtype=torch.float64) for _ in range(2))
        off = (left.to(index) @ right.to(index)).cpu().sub(left @ right).abs().max().item()
        card["error"] = f"a product differs by {off:.2g} from the CPU's" if off > 1e-9 else ""
    except RuntimeError as error:
        card["error"] = (str(error).splitlines() or [""])[0]
    return card


def _nccl() -> str:
    """Add up over a group of one: what NCCL needs is loaded and started by that."""
    if not dist.is_nccl_available():
        return ""
    try:
        os.environ.setdefault("NCCL_SOCKET_IFNAME", "lo")
        torch.cuda.set_device(0)
        dist.init_process_group("nccl", store=HashStore(), rank=0, world_size=1)
        value = torch.ones(1, device="cuda")
        dist.all_reduce(value)
        right = value.item() == 1.0
        dist.destroy_process_group()
    except (RuntimeError, ValueError) as error:
        return f"error: {(str(error).splitlines() or [''])[0]}"
    version = ".".join(map(str, torch.cuda.nccl.version()))
    return f"{version} starts and adds up" if right else "error: a sum is wrong"
