"""Image models of the timm library (R. Wightman, github.com/huggingface/pytorch-image-models) as encoders."""

import difflib
import math
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any, Self

import timm
import timm.data
import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import GatedRepoError
from torch import Tensor, nn

from features.encoders.hub import links, quick_without_network, why_not_fetched
from features.encoders.lineage import read_lineage
from features.encoders.presets import PRESETS, Preset
from features.encoders.published.poolers import as_published, pooled
from features.encoders.spec import EncoderSpec, WeightsChoice
from features.encoders.weights import load_weights, weights_sha256
from wsi.errors import RequestError

HUB_PREFIXES = ("hf-hub:", "hf_hub:")


class TimmEncoder:
    """A timm model without its classifier, in evaluation mode; features are the model's own pooled ones."""

    def __init__(self, model: nn.Module, spec: EncoderSpec, architecture: "Architecture") -> None:
        self._model = model.eval().requires_grad_(requires_grad=False)
        self._spec, self._architecture = spec, architecture
        self._format = torch.channels_last

    @property
    def spec(self) -> EncoderSpec:
        """What is known of it."""
        return self._spec

    @property
    def module(self) -> nn.Module:
        """The model itself, for fine-tuning; its parameters ask for no gradients."""
        return self._model

    def module_of_any_size(self) -> nn.Module:
        """Return the model with position embeddings interpolated to the input's size.

        Raises
        ------
        TypeError
            The architecture has its own size only.
        """
        model = self._architecture.create(dynamic_img_size=True)
        model.load_state_dict(self._model.state_dict())
        return model

    def to(self, device: torch.device) -> Self:
        """Move its tensors to the device; return itself."""
        self._model = self._model.to(device, memory_format=self._format)  # type: ignore[call-overload]
        return self

    def keep_channels_first(self) -> None:
        """Leave tensors as (N, C, H, W) in memory, too; before `to`."""
        self._format = torch.contiguous_format

    def hold_in(self, dtype: torch.dtype) -> None:
        """Cast the weights of convolutions and matrix products now; see `features.encoders.spec.HalfEncoder`.

        Only of torch's own modules: others may compute with their weights in float32 first.
        """
        for module in self._model.modules():
            if type(module) in (nn.Linear, nn.Conv2d):
                module.to(dtype)

    def apply_crop(self) -> bool:
        """Take tiles as timm's own transform does: enlarged by the crop, the middle cut out; False where nothing is."""
        spec = self._spec
        if spec.input_px is None or spec.resize_px is not None or spec.crop_pct >= 1:
            return False
        self._spec = replace(spec, resize_px=math.floor(spec.input_px / spec.crop_pct), cropped=True)
        return True

    def compile(self) -> None:
        """Let torch.compile make kernels for it, at the first batch."""
        self._model.compile()

    def encode(self, tiles_NCHW: Tensor) -> Tensor:
        """Return (N, dim) features; see `features.encoders.spec.Encoder`."""
        features: Tensor = self._model(tiles_NCHW.contiguous(memory_format=self._format))
        return features


@dataclass(frozen=True, slots=True)
class Architecture:
    """What `timm.create_model` is asked for."""

    name: str
    """The encoder's name, as the user wrote it."""
    preset: Preset | None

    @property
    def model(self) -> str:
        """Timm's name of it."""
        return self.preset.model if self.preset else self.name.partition(":")[2]

    @property
    def arguments(self) -> dict[str, Any]:
        """Further arguments."""
        if self.preset is None:
            return {}
        return {**self.preset.arguments, **{key: _class(where) for key, where in self.preset.named_layers.items()}}

    def create(self, *, published: bool = False, **changes: Any) -> nn.Module:
        """Return the model without its classifier, with published weights or random ones."""
        preset = self.preset
        from_hub = published and preset is not None and not preset.hub_file
        name = f"hf-hub:{preset.hub}" if preset and from_hub else self.model
        arguments = {**self.arguments, **changes}
        file = Path(hf_hub_download(preset.hub, preset.hub_file)) if published and preset and preset.hub_file else None
        model: nn.Module = timm.create_model(
            name, pretrained=published and (from_hub or preset is None), num_classes=0, **arguments
        )
        if preset is None:
            return model
        model = pooled(model, preset.feature)
        if file is not None:
            self.load(model, file)
        return model

    def load(self, model: nn.Module, file: Path) -> str:
        """Load a file in the authors' layout, or timm's, into what `create` gave; return what was chosen of it."""
        own, preset = as_published(model), self.preset
        unused, positions = (preset.unused, preset.positions) if preset else ((), "")
        return load_weights(own, file, (*_classifier_prefixes(own), *unused), positions)


def _class(where: str) -> Any:
    module, _, name = where.partition(":")
    return getattr(import_module(module), name)


def build(name: str, weights: WeightsChoice) -> TimmEncoder:
    """Build ``timm:<model>`` or a preset.

    Mean, std and input size are those of the preset, or of timm's data configuration of that model.

    Raises
    ------
    RequestError
        timm knows no such model, its weights cannot be fetched, or the file of weights does not fit.
    """
    architecture = Architecture(name, PRESETS.get(name))
    if architecture.preset is None:
        _check_known(name, architecture.model)
    model = _create(architecture, weights)
    note = ""
    if weights.file is not None:
        note = architecture.load(model, weights.file)
    return TimmEncoder(model, _spec(architecture, model, weights, note), architecture)


def _check_known(name: str, model_name: str) -> None:
    if model_name.startswith(HUB_PREFIXES) or timm.is_model(model_name):
        return
    near = difflib.get_close_matches(model_name, timm.list_models(), n=3)
    hint = f"; near: {', '.join(near)}" if near else ""
    raise RequestError(f"encoder {name}: expected a model that timm {timm.__version__} knows, found none{hint}")


def _create(architecture: Architecture, weights: WeightsChoice) -> nn.Module:
    published = weights.file is None and weights.random_seed is None
    try:
        with torch.random.fork_rng(devices=[]), quick_without_network():
            torch.manual_seed(weights.random_seed or 0)
            return architecture.create(published=published)
    except RequestError:
        raise
    except Exception as error:  # timm, huggingface_hub, urllib and httpx share no base class
        raise RequestError(_why_not(architecture, error, published)) from error


def _why_not(architecture: Architecture, error: Exception, published: bool) -> str:
    name, preset = architecture.name, architecture.preset
    told = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
    gated = any(isinstance(link, GatedRepoError) for link in links(error))
    if gated or (published and preset):
        return why_not_fetched(name, preset.hub if preset else architecture.model.partition(":")[2], error)
    what = "its published weights" if published else "its architecture"
    return (
        f"encoder {name}: expected {what}, could not get them ({type(error).__name__}: {told}): check the "
        "network or the Hugging Face token, or use --weights FILE, or take random weights, for untrained features"
    )


def _classifier_prefixes(model: Any) -> tuple[str, ...]:
    named = getattr(model, "pretrained_cfg", {}).get("classifier") or ()
    return tuple(f"{part}." for part in ((named,) if isinstance(named, str) else named))


def _spec(architecture: Architecture, model: Any, weights: WeightsChoice, note: str) -> EncoderSpec:
    name, untrained = architecture.name, weights.random_seed is not None
    source = "random weights" if untrained else "weights of a local file" if weights.file else "published weights"
    caution = f"{name} has random weights (seed {weights.random_seed}): untrained, its features mean nothing learnt"
    facts = _preset_facts(architecture.preset) if architecture.preset else _timm_facts(model)
    return EncoderSpec(
        name=name,
        dim=_dim(name, model, facts["input_px"]),
        trained=not untrained,
        weights_sha256=weights_sha256(model),
        lineage=read_lineage(weights.file) if weights.file else None,
        description=f"timm model {architecture.model}, {source}",
        caution=caution if untrained else "",
        weights_note=note,
        **facts,
    )


def _preset_facts(preset: Preset) -> dict[str, Any]:
    names = ("input_px", "resize_px", "mean", "std", "interpolation", "mpps", "licence")
    return {name: getattr(preset, name) for name in names}


def _timm_facts(model: Any) -> dict[str, Any]:
    config = timm.data.resolve_model_data_config(model)
    return {
        "input_px": int(config["input_size"][-1]),
        "mean": tuple(config["mean"]),
        "std": tuple(config["std"]),
        "interpolation": "bilinear" if config["interpolation"] == "bilinear" else "bicubic",
        "crop_pct": float(config["crop_pct"]),
        "licence": str(model.pretrained_cfg.get("license") or "see the model's card"),
    }


@torch.inference_mode()
def _dim(name: str, model: nn.Module, input_px: int) -> int:
    """Encode one blank tile: the only answer that holds for every architecture."""
    shape = tuple(model.eval()(torch.zeros(1, 3, input_px, input_px)).shape)
    if len(shape) != 2:
        raise RequestError(f"encoder {name}: expected one vector per tile, found an output of shape {shape}")
    return int(shape[1])
