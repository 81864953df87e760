"""Where and how precisely an encoder runs."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from features.encoders.spec import Encoder, EncoderSpec, HalfEncoder, TunedEncoder
from wsi.errors import RequestError

AUTO = "auto"
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
UNITS = {"bf16": ("avx512_bf16", "amx_bf16", "bf16"), "fp16": ("amx_fp16",)}
"""Flags of /proc/cpuinfo (x86, Arm) of which one makes a precision quicker than fp32."""


def resolve_device(asked: str) -> torch.device:
    """Return the device of that name; ``auto`` is the first GPU where there is one, else the CPU."""
    if asked == AUTO:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not re.fullmatch(r"cpu|cuda(:\d+)?", asked):
        raise RequestError(f"--device {asked}: expected auto, cpu, cuda or cuda:<n>")
    device = torch.device(asked)
    count = torch.cuda.device_count() if device.type == "cuda" else 0
    if device.type == "cuda" and (device.index or 0) >= count:
        raise RequestError(f"--device {asked}: expected a GPU that PyTorch sees, found {count}: use --device cpu")
    return device


def device_of_rank(asked: torch.device, local_rank: int) -> torch.device:
    """Return the rank's own GPU (ranks share them in turn), or what was asked where it names one device."""
    if str(asked) != "cuda":
        return asked
    return torch.device("cuda", local_rank % torch.cuda.device_count())


def resolve_precision(asked: str, device: torch.device, spec: EncoderSpec) -> str:
    """Return ``fp32``, ``bf16`` or ``fp16``; ``auto`` is fp32 on a CPU, and the GPU's own half precision there."""
    if asked == AUTO:
        if device.type == "cpu" or spec.precisions == ("fp32",):
            return "fp32"
        with torch.cuda.device(device):
            half = "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
        return half if half in spec.precisions else "fp32"
    if asked not in PRECISIONS:
        raise RequestError(f"--precision {asked}: expected auto, {', '.join(PRECISIONS)}")
    if asked not in spec.precisions:
        raise RequestError(f"--precision {asked}: encoder {spec.name} runs in {', '.join(spec.precisions)} only")
    return asked


def check_precision(precision: str, device: torch.device, rank: int) -> None:
    """Raise `RequestError` where a rank's GPU cannot compute in the precision that was decided for all."""
    if device.type == "cuda" and precision == "bf16":
        with torch.cuda.device(device):
            able = torch.cuda.is_bf16_supported()
        if not able:
            name = torch.cuda.get_device_name(device)
            raise RequestError(
                f"rank {rank}: its GPU ({name}) has no bf16, which was decided for all: give --precision fp32"
            )


def caution_of(precision: str, device: torch.device, cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Return a line for who asks a CPU for a precision that it has no units for; an empty text where all is well."""
    if device.type != "cpu" or precision not in UNITS or not cpuinfo.is_file():
        return ""
    flags = set(re.findall(r"^(?:flags|Features)\s*:(.*)$", cpuinfo.read_text(), re.MULTILINE)[:1])
    if set(" ".join(flags).split()) & set(UNITS[precision]):
        return ""
    return (
        f"caution: --precision {precision}: expected a CPU with units for it ({' or '.join(UNITS[precision])} in "
        f"{cpuinfo}), found none: it is no quicker than fp32 there, in bf16 several times slower; leave --precision out"
    )


def hold(encoder: Encoder, precision: str) -> None:
    """Let an encoder cast its weights once, where the precision asks for it and it can."""
    if precision != "fp32" and isinstance(encoder, HalfEncoder):
        encoder.hold_in(PRECISIONS[precision])


def check_compilable(encoder: Encoder) -> None:
    """Raise `RequestError` unless torch.compile can be used for the encoder."""
    if not isinstance(encoder, TunedEncoder):
        raise RequestError(f"--compile: expected an encoder of timm, found {encoder.spec.name}: leave --compile out")


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Return the context in which a network's products are in the given precision; nothing else belongs into it."""
    return torch.autocast(device.type, PRECISIONS[precision], enabled=precision != "fp32")


@contextmanager
def reproducible_arithmetic() -> Iterator[None]:
    """Run a block in which fp32 means it (no TF32), and one input gives one output; the whole process is affected."""
    threads, matmul = torch.get_num_threads(), torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
            yield
    finally:
        torch.set_float32_matmul_precision(matmul)
        torch.set_num_threads(threads)
