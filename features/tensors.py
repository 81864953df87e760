"""safetensors of unknown origin, read whole: tensors and the texts beside them. Nothing in a file is executed."""

import struct
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from wsi.errors import GigamilError, one_line
from wsi.files.documents import check_document, is_of_the_name


def read_tensors(path: Path, wrong: type[GigamilError]) -> tuple[dict[str, Tensor], dict[str, str]]:
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
    check_document(path, wrong)
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
    check_document(path, wrong)
    try:
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {})
    except (SafetensorError, ValueError) as error:
        raise ValueError(one_line(error, 200)) from None
