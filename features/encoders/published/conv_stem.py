"""CTransPath's stem: three convolutions in place of Swin's one (Wang et al. 2022, after arXiv 2106.14881)."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn


class ConvStem(nn.Module):
    """Patches of 4 px by two convolutions of stride 2 and one of 1 px, as timm's Swin transformers ask for it.

    Parameters
    ----------
    img_size, patch_size, in_chans, embed_dim, norm_layer
        As timm gives them; patches are 4 px whatever is asked.
    """

    def __init__(
        self,
        img_size: int | tuple[int, int] = 224,
        patch_size: int = 4,
        in_chans: int = 3,
        embed_dim: int = 96,
        norm_layer: Callable[[int], nn.Module] | None = None,
        **_timm: Any,
    ) -> None:
        super().__init__()
        height, width = (img_size, img_size) if isinstance(img_size, int) else img_size
        self.patch_size, self.img_size = (patch_size, patch_size), (height, width)
        self.grid_size = (height // patch_size, width // patch_size)
        narrow, wide = embed_dim // 8, embed_dim // 4
        self.proj = nn.Sequential(
            *_halved(in_chans, narrow), *_halved(narrow, wide), nn.Conv2d(wide, embed_dim, kernel_size=1)
        )
        self.norm = norm_layer(embed_dim) if norm_layer else nn.Identity()

    def forward(self, tiles_NCHW: Tensor) -> Tensor:
        """Return (N, H / 4, W / 4, embed_dim)."""
        patches: Tensor = self.norm(self.proj(tiles_NCHW).permute(0, 2, 3, 1))
        return patches


def _halved(channels: int, out: int) -> tuple[nn.Module, ...]:
    convolution = nn.Conv2d(channels, out, kernel_size=3, stride=2, padding=1, bias=False)
    return convolution, nn.BatchNorm2d(out), nn.ReLU()
