"""The student that is trained, its views, and what it learns: made of the options and the encoder."""

import torch
from torch import nn

from features.encoders.timm_encoder import TimmEncoder
from features.learning.backbone import trained_backbone
from features.learning.ranks import Setting
from features.pretrain.dino import Dino, DinoHead
from features.pretrain.objectives import Classes, Objective
from features.pretrain.options import PretrainOptions
from features.pretrain.student import Student
from features.pretrain.vicreg import Vicreg, expander
from features.pretrain.views import LOCAL_AREA, View

LOCAL_SHARE = 3 / 7
"""Of DINO's small views, 96 pixels beside 224."""


def method_of(options: PretrainOptions, backbone: nn.Module) -> str:
    """Return what is learned and how: classes, dino or vicreg."""
    if options.from_formula:
        return "classes"
    if options.method != "auto":
        return options.method
    return "dino" if hasattr(backbone, "blocks") and hasattr(backbone, "patch_embed") else "vicreg"


def views_of(options: PretrainOptions, method: str, encoder: TimmEncoder) -> list[View]:
    """Return the views of each image, large ones first."""
    own_px = encoder.spec.input_px or 0
    size = options.size or own_px
    largest = 1.0 if options.from_formula else min(1.0, size / own_px)
    large = View(size, (options.smallest_crop, 1.0), largest)
    if method == "classes":
        return [large]
    if method != "dino":
        return [large, large]
    local = options.local_size or _in_patches(size * LOCAL_SHARE, encoder.module)
    return [large, large] + [View(local, LOCAL_AREA, largest)] * options.local_crops


def _in_patches(wanted: float, backbone: nn.Module) -> int:
    patch = getattr(getattr(backbone, "patch_embed", None), "patch_size", (1, 1))
    return max(2, round(wanted / patch[0])) * int(patch[0])


def build_objective(
    options: PretrainOptions, method: str, encoder: TimmEncoder, views: list[View], setting: Setting
) -> Objective:
    """Return the objective with its student on the device; what stands on the backbone begins from ``seed``.

    Raises
    ------
    RequestError
        The architecture cannot take views of these sizes.
    """
    sizes = [view.size for view in views]
    backbone = trained_backbone(
        encoder, sizes, activation_checkpointing=options.activation_checkpointing, option="--size"
    )
    dim = encoder.spec.dim
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.seed)
        if method == "classes":
            head: nn.Module = nn.Linear(dim, options.classes)
        else:
            head = DinoHead(dim, options.outputs) if method == "dino" else expander(dim, options.outputs)
    student = Student(backbone, head).to(setting.device)
    if setting.device.type == "cuda":
        student = student.to(memory_format=torch.channels_last)
    if method == "classes":
        return Classes(student, options.ema, options.label_smoothing)
    return Dino(student, options.ema, setting) if method == "dino" else Vicreg(student, options.ema)
