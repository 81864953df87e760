"""safetensors: written whole, and those of unknown origin read whole, tensors and the texts beside them.

Nothing in a file is executed. Where a training stands is such a file, too: the tensors of each part under its name.
"""

import struct
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from wsi.errors import GigamilError, RequestError, one_line
from wsi.files.atomic import write_bytes
from wsi.files.documents import check_document, is_of_the_name

if TYPE_CHECKING:
    from torch import Tensor

MOST_HEADER = 32 << 20
"""Bytes of a file's list of tensors and texts: a model of billions has a few hundred thousand, and reading a list takes
many times its size."""


def read_tensors(path: Path, wrong: type[GigamilError]) -> "tuple[dict[str, Tensor], dict[str, str]]":
    """Return the tensors by name, on the CPU, and the metadata.

    Raises
    ------
    wrong
        There is no such file, or it is no regular one.
    ValueError
        It is no whole safetensors file; one line.
    OSError
        The storage fails.
    """
    _check(path, wrong)
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
            return tensors, dict(file.metadata() or {})
    except (SafetensorError, RuntimeError, ValueError, TypeError, LookupError, AttributeError, struct.error) as error:
        raise ValueError(one_line(error, 200)) from None
    except OSError as error:
        if error.errno is not None and not is_of_the_name(error):
            raise
        raise ValueError(one_line(error, 200)) from None


def read_texts(path: Path, wrong: type[GigamilError]) -> dict[str, str]:
    """Return the metadata alone; raises as `read_tensors`."""
    _check(path, wrong)
    try:
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {})
    except (SafetensorError, ValueError) as error:
        raise ValueError(one_line(error, 200)) from None


def _check(path: Path, wrong: type[GigamilError]) -> None:
    check_document(path, wrong)
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
    if length > MOST_HEADER:
        raise ValueError(f"no safetensors file: its header would take {length:,} bytes, of {MOST_HEADER:,} at most")


def packed(tensors: "Mapping[str, Tensor]", texts: Mapping[str, str]) -> bytes:
    """Return the file's content, of tensors that may lie anywhere and share their storage."""
    from safetensors.torch import save

    return save({name: value.detach().cpu().clone().contiguous() for name, value in tensors.items()}, dict(texts))


def write_standing(path: Path, parts: "Mapping[str, Mapping[str, Tensor]]", texts: Mapping[str, str]) -> None:
    """Write where a training stands, whole or not at all."""
    tensors = {f"{part}/{name}": value for part, own in parts.items() for name, value in own.items()}
    write_bytes(path, packed(tensors, texts))


@contextmanager
def standing_at(path: Path, remedy: str) -> Iterator[tuple[dict[str, Any], dict[str, str]]]:
    """Give the parts by name, absent ones empty, on the CPU, and the texts; what fails in the block is damage.

    Raises
    ------
    RequestError
        The file is damaged: do as ``remedy`` tells.
    """
    try:
        tensors, texts = read_tensors(path, RequestError)
        parts: dict[str, dict[str, Tensor]] = defaultdict(dict)
        for name, value in tensors.items():
            part, _, key = name.partition("/")
            parts[part][key] = value
        yield parts, texts
    except RequestError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        told = one_line(repr(error), 200)
        raise RequestError(f"{path}: the checkpoint is damaged ({told}): {remedy}") from None


def flat_moments(moments: "Mapping[int, Mapping[str, Tensor]]") -> "dict[str, Tensor]":
    """Return an optimizer's tensors as ``<parameter>/<name>``."""
    return {f"{number}/{name}": value for number, own in moments.items() for name, value in own.items()}


def nested_moments(flat: "Mapping[str, Tensor]") -> "dict[int, dict[str, Tensor]]":
    """Return them as the optimizer's ``state_dict`` has them."""
    moments: dict[int, dict[str, Tensor]] = defaultdict(dict)
    for name, value in flat.items():
        number, _, key = name.partition("/")
        moments[int(number)][key] = value
    return dict(moments)
