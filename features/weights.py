"""Weights of a model from a local file, and their hash. Nothing in a file is ever executed."""

import hashlib
import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from features.transformers_keys import timm_keys
from wsi.errors import RequestError

WRAPPERS = ("state_dict", "model_state_dict", "model", "module")
"""Keys under which training programs put the state dict."""
PREFIXES = ("module.", "model.", "_orig_mod.")
"""What DataParallel, Lightning and torch.compile put before every key."""
NAMED = 4
"""Keys named in a message."""


def weights_sha256(model: nn.Module) -> str:
    """Return the sha256 (hex) of the state dict: for each key in sorted order its name, dtype, shape and bytes."""
    digest = hashlib.sha256()
    for key, tensor in sorted(model.state_dict().items()):
        digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def load_weights(model: nn.Module, file: Path, ignored_prefixes: tuple[str, ...] = ()) -> None:
    """Load a state dict from a file into the model, every key and shape checked.

    Keys under ``ignored_prefixes`` (the classifier, where the model has none) and batch-norm counters may differ; the
    transformers library's keys of vision transformers are translated.

    Raises
    ------
    RequestError
        The file holds no state dict of tensors, or its keys or shapes are not the model's.
    """
    found, wanted = _without_wrappers(_read(file), file), model.state_dict()
    found = timm_keys(_without_prefixes(found, wanted))
    unexpected = [key for key in found if key not in wanted and not key.startswith(ignored_prefixes)]
    missing = [key for key in wanted if key not in found and not key.endswith("num_batches_tracked")]
    shapes = [
        f"{key} {tuple(found[key].shape)} in place of {tuple(wanted[key].shape)}"
        for key in wanted
        if key in found and found[key].shape != wanted[key].shape
    ]
    problems = [("missing", missing), ("unexpected", unexpected), ("of another shape", shapes)]
    told = "; ".join(f"{len(keys)} {what} ({_some(keys)})" for what, keys in problems if keys)
    if told:
        raise RequestError(
            f"--weights {file}: expected the {len(wanted)} tensors of this model, found {told}: give the weights of "
            "this very model, or name the model they belong to"
        )
    model.load_state_dict({key: found[key] for key in wanted if key in found}, strict=False)


def _read(file: Path) -> Any:
    try:
        if file.suffix == ".safetensors":
            return safetensors.torch.load_file(file)
        with warnings.catch_warnings(action="ignore"):  # about the pickle's age; what matters is raised
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        refused = str(error).split("GLOBAL ")[-1].split(" ")[0] if "GLOBAL " in str(error) else "unknown objects"
        raise RequestError(
            f"--weights {file}: expected tensors only, found {refused}, which could run code: "
            "save the state dict alone (torch.save(model.state_dict(), FILE) or safetensors)"
        ) from None
    except (OSError, EOFError, RuntimeError, ValueError, KeyError, safetensors.SafetensorError) as error:
        told = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise RequestError(f"--weights {file}: expected a .safetensors or .pt state dict, found {told}") from None


def _without_wrappers(content: Any, file: Path) -> dict[str, Tensor]:
    while isinstance(content, Mapping):
        inner = next((content[key] for key in WRAPPERS if isinstance(content.get(key), Mapping)), None)
        if inner is None:
            break
        content = inner
    tensors = isinstance(content, Mapping) and all(isinstance(value, Tensor) for value in content.values())
    if not tensors or not content:
        kind = f"keys {_some(list(content))}" if isinstance(content, Mapping) else type(content).__name__
        raise RequestError(f"--weights {file}: expected a dictionary of tensors (a state dict), found {kind}")
    return {str(key): value for key, value in content.items()}


def _without_prefixes(found: dict[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    while not any(key in wanted for key in found):
        prefix = next((p for p in PREFIXES if all(key.startswith(p) for key in found)), None)
        if prefix is None:
            break
        found = {key.removeprefix(prefix): value for key, value in found.items()}
    return found


def _some(keys: list[Any]) -> str:
    return ", ".join(map(str, keys[:NAMED])) + (", ..." if len(keys) > NAMED else "") if keys else "none"
