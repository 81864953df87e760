"""The model that is trained: an encoder's backbone and a linear classifier on its features.

Batch norm keeps the statistics that it came with (its scale and shift are trained): statistics of a batch would depend
on how it is divided among ranks, and tiles of one slide are far from independent samples. Dropout and stochastic depth
are those of the architecture, which timm leaves at 0 unless its card says otherwise.
"""

from torch import Tensor, nn

from features.encoders.timm_encoder import TimmEncoder
from features.finetune.options import FinetuneOptions
from features.learning.backbone import NORMS, trained_backbone


class TileClassifier(nn.Module):
    """Class logits of tiles."""

    def __init__(self, backbone: nn.Module, dim: int, n_classes: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(dim, n_classes)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, tiles_NCHW: Tensor) -> Tensor:
        """Return logits (N, C)."""
        logits: Tensor = self.head(self.backbone(tiles_NCHW))
        return logits

    def train(self, mode: bool = True) -> "TileClassifier":
        """Switch to training, all but the statistics of batch norm."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, NORMS):
                module.train(mode=False)
        return self


def build_model(options: FinetuneOptions, encoder: TimmEncoder, n_classes: int) -> TileClassifier:
    """Build the model with the encoder's weights and a classifier of zeros, on the CPU.

    Raises
    ------
    RequestError
        The architecture takes none of the wanted sizes, or cannot recompute its activations.
    """
    backbone = trained_backbone(
        encoder,
        options.sizes or (encoder.spec.input_px or 0,),
        activation_checkpointing=options.activation_checkpointing,
    )
    return TileClassifier(backbone, encoder.spec.dim, n_classes)
