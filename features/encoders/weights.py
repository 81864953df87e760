"""Weights of a model from a local file, and their hash. Nothing in a file is ever executed."""

import hashlib
import pickle
import warnings
import zipfile
from argparse import Namespace
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from features.encoders.published.key_maps import timm_keys
from features.encoders.published.positions import fitted
from features.encoders.published.preset import Positions
from features.tensors import read_tensors
from wsi.errors import RequestError, one_line, says_damage
from wsi.files.documents import check_document

AVERAGED = ("state_dict_ema", "model_ema", "ema", "teacher", "momentum_encoder", "target_encoder")
"""Where training programs put the moving average of the weights: it is what they evaluate, so it is taken first."""
WRAPPERS = (
    *AVERAGED,
    *("state_dict", "model_state_dict", "model", "module", "_orig_mod", "net", "student", "backbone", "encoder"),
    *("base_encoder", "image_encoder", "visual_encoder", "visual", "trunk"),
)
"""What training programs put before the keys of a model, as a dictionary of its own or in the keys themselves:
DataParallel, Lightning, torch.compile, timm, DINO, iBOT, MoCo, I-JEPA, CLIP."""
UNUSED = ("mask_token", "num_batches_tracked")
"""Endings of keys that pre-training leaves in a model, and no feature needs."""
DEEPEST = 8
"""Dictionaries and prefixes within each other."""
MOST_TENSORS = 1_000_000
MOST_PREFIXES = 64
"""Runs of wrappers that are tried."""
NAMED = 4
"""Keys named in a message."""


def weights_sha256(model: nn.Module) -> str:
    """Return the sha256 (hex) of the state dict: for each key in sorted order its name, dtype, shape and bytes."""
    digest = hashlib.sha256()
    for key, tensor in sorted(model.state_dict().items()):
        digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def load_weights(
    model: nn.Module, file: Path, ignored_prefixes: tuple[str, ...] = (), positions: Positions = ""
) -> str:
    """Load a state dict from a file into the model, every key and shape checked; return what was chosen of it.

    What stands before the keys may be any of `WRAPPERS`, one after the other: those tensors are taken that are a whole
    model's, a moving average first. Keys under ``ignored_prefixes`` (the classifier, where the model has none) and
    `UNUSED` ones may differ; the layouts of `published.key_maps` are translated, and position embeddings of another
    grid enlarged where ``positions`` says how.

    Raises
    ------
    RequestError
        The file holds no state dict of tensors, or its keys or shapes are not the model's.
    """
    found, wanted = _tensors(_read(file), file), model.state_dict()
    choices = []
    for prefix in _prefixes(found):
        own = timm_keys({key.removeprefix(prefix): value for key, value in found.items() if key.startswith(prefix)})
        own = fitted(own, wanted, positions)
        choices.append((_problems(own, wanted, ignored_prefixes), prefix, own))
    problems, prefix, own = min(choices, key=lambda choice: (sum(map(len, choice[0].values())), *_rank(choice[1])))
    told = "; ".join(f"{len(keys)} {what} ({_some(keys)})" for what, keys in problems.items() if keys)
    if told:
        raise RequestError(
            f"--weights {file}: expected the {len(wanted)} tensors of this model, found {told}: give the weights of "
            "this very model, or name the model they belong to"
        )
    model.load_state_dict({key: own[key] for key in wanted if key in own}, strict=False)
    return _taken(prefix, found)


def _prefixes(found: Mapping[str, Tensor]) -> list[str]:
    """Return every run of known wrappers with which a key begins, the empty one included."""
    prefixes = {""}
    for key in found:
        prefix = ""
        for part in key.split(".", DEEPEST)[:DEEPEST]:
            if part not in WRAPPERS:
                break
            prefix += f"{part}."
            prefixes.add(prefix)
    return sorted(prefixes, key=lambda own: (own.count("."), own))[:MOST_PREFIXES]


def _problems(
    found: Mapping[str, Tensor], wanted: Mapping[str, Tensor], ignored_prefixes: tuple[str, ...]
) -> dict[str, list[str]]:
    """Return the keys that keep a state dict from being the model's, by what is wrong with them."""
    return {
        "missing": [key for key in wanted if key not in found and not key.endswith("num_batches_tracked")],
        "unexpected": [
            key for key in found if not (key in wanted or key.startswith(ignored_prefixes) or key.endswith(UNUSED))
        ],
        "of another shape": [
            f"{key} {tuple(found[key].shape)} in place of {tuple(wanted[key].shape)}"
            for key in wanted
            if key in found and found[key].shape != wanted[key].shape
        ],
    }


def _rank(prefix: str) -> tuple[bool, int, str]:
    """Return by what one of several whole models in a file is chosen: a moving average, then the shortest prefix."""
    return not set(prefix.split(".")) & set(AVERAGED), len(prefix), prefix


def _taken(prefix: str, found: Mapping[str, Tensor]) -> str:
    """Return which tensors were taken, where the file holds others, too."""
    others = [key for key in found if not key.startswith(prefix)]
    if not others:
        return ""
    groups = sorted({key.partition(".")[0] for key in others})
    average = " (a moving average)" if not _rank(prefix)[0] else ""
    return (
        f"of the weights' file the {len(found) - len(others)} tensors under {prefix.rstrip('.')}{average} were taken, "
        f"{len(others)} others left out ({_some(groups)})"
    )


def _check_kind(file: Path) -> None:
    """Raise `RequestError` where a file begins neither as a pickle nor as a zip of them."""
    with file.open("rb") as content:
        first = content.read(9)
    if first[8:] == b"{":
        raise RequestError(f"--weights {file}: expected a .pt state dict, found safetensors: name it .safetensors")
    if not first.startswith((b"\x80", b"PK")):
        raise RequestError(f"--weights {file}: expected a .safetensors or .pt state dict, found another kind of file")


def _read(file: Path) -> Any:
    size = check_document(file, RequestError)
    try:
        if file.suffix == ".safetensors":
            return read_tensors(file, RequestError)[0]
        _check_unpacked(file, size)
        # options of a training run, as argparse keeps them, are values without code; warnings are about a pickle's age
        with torch.serialization.safe_globals([Namespace]), warnings.catch_warnings(action="ignore"):
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        _check_kind(file)
        refused = str(error).split("GLOBAL ")[-1].split(" ")[0] if "GLOBAL " in str(error) else "unknown objects"
        refused = one_line(refused, 60)
        raise RequestError(
            f"--weights {file}: expected tensors only, found {refused}, which could run code: "
            "save the state dict alone (torch.save(model.state_dict(), FILE) or safetensors)"
        ) from None
    except Exception as error:  # torch and zip raise nearly anything on damaged bytes
        if isinstance(error, RequestError) or not says_damage(error):
            raise
        told = one_line(str(error) or type(error).__name__, 200)
        raise RequestError(f"--weights {file}: expected a .safetensors or .pt state dict, found {told}") from None


def _check_unpacked(file: Path, size: int) -> None:
    """Raise `ValueError` where a .pt file holds more bytes than it has: torch writes them as they are."""
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as content:
            declared = sum(entry.file_size for entry in content.infolist())
        if declared > size:
            raise ValueError(f"a file of {size:,} bytes that unpacks to {declared:,}")


def _tensors(content: Any, file: Path) -> dict[str, Tensor]:
    """Return the tensors of nested dictionaries by their keys, joined by dots."""
    tensors: dict[str, Tensor] = {}
    for key, tensor in _flat(content, "", 0) if isinstance(content, Mapping) else ():
        tensors[key] = tensor
        if len(tensors) > MOST_TENSORS:
            raise RequestError(f"--weights {file}: expected the tensors of a model, found more than {MOST_TENSORS:,}")
    if not tensors:
        kind = f"keys {_some(list(content))}" if isinstance(content, Mapping) else type(content).__name__
        raise RequestError(f"--weights {file}: expected a dictionary of tensors (a state dict), found {kind}")
    return tensors


def _flat(content: Mapping[Any, Any], prefix: str, depth: int) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors; what stands deeper than any program puts it, as in a dictionary within itself, is none."""
    for key, value in content.items():
        if isinstance(value, Tensor):
            yield f"{prefix}{key}", value
        elif isinstance(value, Mapping) and depth < DEEPEST:
            yield from _flat(value, f"{prefix}{key}.", depth + 1)


def _some(keys: list[Any]) -> str:
    named = ", ".join(one_line(key, 60) for key in keys[:NAMED])
    return named + (", ..." if len(keys) > NAMED else "") if keys else "none"
