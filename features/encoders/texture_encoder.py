"""``texture``: a handcrafted encoder for H&E tiles. Nothing in it is learnt and nothing is downloaded.

It is what the demo runs on, and an honest baseline for trained encoders; it is no pathology foundation model.
It measures, per tile: colour after optical-density stain separation (Ruifrok & Johnston, Anal Quant Cytol Histol 2001),
energies of steerable Gaussian derivatives over orientations (Freeman & Adelson, PAMI 1991) on an octave pyramid,
coherence of the structure tensor (Bigün & Granlund, ICCV 1987), blob responses (Lindeberg, IJCV 1998), the power
spectrum in rings and sectors, rotation-invariant local binary patterns (Ojala, PAMI 2002), and how unevenly all that
lies in the tile. Orientations enter only as sorted, largest-to-mean or coherence values: a turned tile gives nearly the
same vector.

Legend: n tiles, m pixels per side of a pyramid level. Colour is measured at half the tile's resolution; the pyramid
begins at a quarter of it (2 um/px for tiles at 0.5), where a nucleus is a blob of the filters' size.
"""

import hashlib
import math
from typing import Self

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from features.encoders.spec import EncoderSpec, WeightsChoice
from wsi.errors import RequestError
from wsi.recipe import canonical

REVISION = 1
"""Raised whenever a change alters the numbers."""
STAINS_RGB = ((0.650, 0.704, 0.286), (0.072, 0.990, 0.105), (0.268, 0.570, 0.776))
"""Optical-density vectors of haematoxylin, eosin and a residual (Ruifrok & Johnston)."""
SIGMA_PX = 1.2
"""Of the Gaussian derivatives, in pixels of each pyramid level."""
LEVELS = 3
ORIENTATIONS = 8
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
RINGS_CYCLES_PER_PX = (0.02, 0.06, 0.12, 0.22, 0.5)
"""Edges of the spectrum's rings, at pyramid level 0."""
SMALLEST_PX = 128
"""Smaller tiles are enlarged to this, so that the pyramid's top holds something."""
RANKED_PX = 32
"""Pixels per side that are sorted for quantiles."""
CPU_TILES = 16
"""Tiles measured together on a CPU: their intermediate maps stay in the cache."""
FLOOR = 1e-5
"""Added before a logarithm or a division: far below what stained tissue shows."""


class TextureEncoder:
    """Handcrafted colour and texture measures; see the module."""

    def __init__(self) -> None:
        self._device = torch.device("cpu")
        self._filters: dict[int, Tensor] = {}
        self._sectors: dict[int, Tensor] = {}
        self._unmix = torch.linalg.inv(torch.tensor(STAINS_RGB, dtype=torch.float64)).T.float().contiguous()
        with torch.inference_mode():
            dim = self.encode(torch.full((1, 3, SMALLEST_PX, SMALLEST_PX), 0.7)).shape[1]
        constants = [
            REVISION,
            STAINS_RGB,
            SIGMA_PX,
            LEVELS,
            ORIENTATIONS,
            QUANTILES,
            RANKED_PX,
            RINGS_CYCLES_PER_PX,
            FLOOR,
        ]
        self._spec = EncoderSpec(
            name="texture",
            dim=dim,
            input_px=None,
            trained=False,
            weights_sha256=hashlib.sha256(canonical({"texture": constants}).encode()).hexdigest(),
            licence="MIT (part of this software)",
            description="handcrafted colour and texture measures for H&E; nothing is learnt",
            precisions=("fp32",),
        )

    @property
    def spec(self) -> EncoderSpec:
        """What is known of it."""
        return self._spec

    def to(self, device: torch.device) -> Self:
        """Move its tensors to the device; return itself."""
        self._device = device
        self._unmix = self._unmix.to(device)
        self._filters, self._sectors = {}, {}
        return self

    def encode(self, tiles_NCHW: Tensor) -> Tensor:
        """Return (N, dim) float32 features of RGB in [0, 1], (N, 3, H, W)."""
        together = len(tiles_NCHW) if tiles_NCHW.is_cuda else CPU_TILES
        return torch.cat([self._measures(some) for some in torch.split(tiles_NCHW, max(1, together))])

    def _measures(self, tiles_NCHW: Tensor) -> Tensor:
        if min(tiles_NCHW.shape[2:]) < SMALLEST_PX:
            tiles_NCHW = interpolate(tiles_NCHW, (SMALLEST_PX, SMALLEST_PX), mode="bilinear", align_corners=False)
        od = _halved(tiles_NCHW).clamp_min_(1 / 255).log_().neg_()
        stains = (self._unmix @ od.flatten(2)).unflatten(2, od.shape[2:])
        density, haematoxylin = _halved(torch.stack((od.mean(1), stains[:, 0]), 1)).unbind(1)
        parts = [_colour(od, stains), _quantiles(density), _quantiles(haematoxylin)]
        parts += [_unevenness(density), _unevenness(haematoxylin), self._spectrum(density)]
        parts += [_binary_patterns(density), _local_contrast(density)]
        parts += self._derivatives(haematoxylin, windows=1)
        for index in range(LEVELS):
            parts += self._derivatives(density, windows=2 if index + 1 < LEVELS else 1)
            density = _halved(density)
        return torch.cat(parts, 1)

    def _derivatives(self, image_nmm: Tensor, windows: int) -> list[Tensor]:
        """Return measures of the Gaussian derivatives; coherence in ``windows`` sizes: 8 pixels, 16 pixels."""
        gx, gy, gxx, gxy, gyy = self._gaussian_jet(image_nmm)
        tensor = torch.stack((gx * gx, gx * gy, gy * gy), 1)
        parts = [_steered_energies(gxx, gxy, gyy), _blobs(gxx, gxy, gyy), _anisotropy(tensor)]
        pooled = _halved(_halved(tensor))
        for _ in range(windows):
            pooled = _halved(pooled)
            parts.append(_coherence(pooled))
        return parts

    def _gaussian_jet(self, image_nmm: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Return the scale-normalised Gaussian derivatives (x, y, xx, xy, yy), each (n, m, m).

        Separable filters as products with banded matrices: the fastest form for one channel, on CPU and GPU alike.
        """
        rows, columns = image_nmm.shape[1:]
        across = image_nmm @ self._filter_matrix(columns).flatten(0, 1).T
        h0, h1, h2 = torch.split(across, columns, 2)
        g0, g1, g2 = self._filter_matrix(rows)
        return g0 @ h1, g1 @ h0, g0 @ h2, g1 @ h1, g2 @ h0

    def _filter_matrix(self, size_px: int) -> Tensor:
        """Return (3, m, m): Gaussian, first and second derivative as matrices; the border is mirrored."""
        if size_px not in self._filters:
            self._filters[size_px] = _banded_matrices(size_px).to(self._device)
        return self._filters[size_px]

    def _spectrum(self, image_nmm: Tensor) -> Tensor:
        """Return each ring's share of the power, and the log of its strongest sector over its mean: (n, 2 rings)."""
        size = min(image_nmm.shape[1:])
        if size not in self._sectors:
            self._sectors[size] = _ring_sectors(size).to(self._device)
        window = torch.hann_window(size, periodic=False, device=image_nmm.device)
        square = image_nmm[:, :size, :size]
        square = (square - square.mean((1, 2), keepdim=True)) * window * window[:, None]
        power = torch.fft.rfft2(square).abs().square().flatten(1)
        sectors = (power @ self._sectors[size]).unflatten(1, (-1, ORIENTATIONS))
        rings = sectors.mean(2)
        share = rings / (rings.sum(1, keepdim=True) + FLOOR)
        ratio = sectors / (rings[..., None] + FLOOR)
        return torch.cat((share, torch.log1p(ratio.amax(2))), 1)


def build(name: str, weights: WeightsChoice) -> TextureEncoder:
    """Build the encoder; it has no weights, so asking for some is a `RequestError`."""
    if name != "texture":
        raise RequestError(f"encoder {name}: expected plain texture, which has no variants")
    if weights.file is not None or weights.random_seed is not None:
        raise RequestError(
            "encoder texture has no weights (it is handcrafted): leave out --weights and --random-weights"
        )
    return TextureEncoder()


def _banded_matrices(size_px: int) -> Tensor:
    radius = math.ceil(3.5 * SIGMA_PX)
    offset = torch.arange(-radius, radius + 1, dtype=torch.float64)
    gauss = torch.exp(-(offset**2) / (2 * SIGMA_PX**2))
    gauss /= gauss.sum()
    second = gauss * (offset**2 / SIGMA_PX**2 - 1)
    taps = torch.stack((gauss, gauss * offset / SIGMA_PX, second - second.mean()))
    matrices = torch.zeros(3, size_px, size_px, dtype=torch.float64)
    for row in range(size_px):
        columns = row + offset.long()
        columns = torch.where(columns < 0, -1 - columns, columns)
        columns = torch.where(columns >= size_px, 2 * size_px - 1 - columns, columns)
        matrices[:, row].index_add_(1, columns, taps)
    return matrices.float()


def _ring_sectors(size_px: int) -> Tensor:
    """Return (frequencies, rings x sectors): which bin of the half spectrum counts to which ring and sector."""
    fy, fx = torch.fft.fftfreq(size_px), torch.fft.rfftfreq(size_px)
    radius = torch.hypot(fy[:, None], fx[None, :]).flatten()
    angle = torch.atan2(fy[:, None].expand(-1, len(fx)), fx.expand(len(fy), -1)).flatten() % math.pi
    sector = (angle / math.pi * ORIENTATIONS + 0.5).long() % ORIENTATIONS
    ring = torch.bucketize(radius, torch.tensor(RINGS_CYCLES_PER_PX), right=True) - 1
    rings = len(RINGS_CYCLES_PER_PX) - 1
    inside = (ring >= 0) & (ring < rings)
    bins = torch.zeros(len(radius), rings * ORIENTATIONS)
    bins[torch.nonzero(inside)[:, 0], (ring * ORIENTATIONS + sector)[inside]] = 1
    return bins / bins.sum(0).clamp_min(1)


def _halved(image: Tensor) -> Tensor:
    """Return means of 2 x 2 pixels of the last two axes; an odd last row or column is left out.

    Sums of strided views: five times as fast on a CPU as avg_pool2d.
    """
    rows, columns = image.shape[-2] // 2 * 2, image.shape[-1] // 2 * 2
    lines = image[..., 0:rows:2, :columns] + image[..., 1:rows:2, :columns]
    return (lines[..., ::2] + lines[..., 1::2]).mul_(0.25)


def _std_mean(values: Tensor) -> tuple[Tensor, Tensor]:
    """Return standard deviation and mean over the last axis, which stays with length 1."""
    mean = values.mean(-1, keepdim=True)
    return (values - mean).square_().mean(-1, keepdim=True).sqrt(), mean


def _colour(od: Tensor, stains: Tensor) -> Tensor:
    """Return mean and spread of optical density and stains: (n, 12)."""
    std, mean = _std_mean(torch.cat((od, stains), 1).flatten(2))
    return torch.cat((mean, 2 * std), 1).flatten(1)


def _quantiles(image_nmm: Tensor) -> Tensor:
    """Return the `QUANTILES` over the tile, from at most about `RANKED_PX` by as many of its pixels: (n, quantiles)."""
    step = max(1, min(image_nmm.shape[1:]) // RANKED_PX)
    values = image_nmm[:, ::step, ::step].flatten(1).sort(1).values
    last = values.shape[1] - 1
    return values[:, [round(q * last) for q in QUANTILES]]


def _unevenness(image_nmm: Tensor) -> Tensor:
    """Return how unevenly a map lies in the tile: spread, extremes and skewness of means in 4- and 16-pixel blocks."""
    parts = []
    for _ in range(2):
        image_nmm = _halved(_halved(image_nmm))
        values = image_nmm.flatten(1)
        std, mean = _std_mean(values)
        centred = values - mean
        skewness = centred.pow(3).mean(1, keepdim=True) / (std.pow(3) + FLOOR)
        parts += [4 * std, centred.amax(1, keepdim=True), -centred.amin(1, keepdim=True), skewness.clamp(-4, 4)]
    return torch.cat(parts, 1)


def _steered_energies(gxx: Tensor, gxy: Tensor, gyy: Tensor) -> Tensor:
    """Return the second derivative's energy over orientations: log of the mean, then sorted energies over their mean.

    The derivative along an angle is a combination of three, so its energy follows from their second moments.
    """
    theta = torch.arange(ORIENTATIONS, device=gxx.device) * (math.pi / ORIENTATIONS)
    cc, cs, ss = theta.cos() ** 2, 2 * theta.cos() * theta.sin(), theta.sin() ** 2
    weights = torch.stack((cc * cc, cs * cs, ss * ss, 2 * cc * cs, 2 * cc * ss, 2 * cs * ss))
    products = ((gxx, gxx), (gxy, gxy), (gyy, gyy), (gxx, gxy), (gxx, gyy), (gxy, gyy))
    energies = torch.stack([(a * b).mean((1, 2)) for a, b in products], 1) @ weights
    mean = energies.mean(1, keepdim=True)
    ranked = energies.sort(1).values[:, (0, ORIENTATIONS // 2, -1)] / (mean + FLOOR)
    return torch.cat((torch.log10(mean + FLOOR), ranked), 1)


def _blobs(gxx: Tensor, gxy: Tensor, gyy: Tensor) -> Tensor:
    """Return strength of dark blobs, of bright ones, their unevenness, and roundness (Hessian determinant to trace)."""
    trace = gxx + gyy
    dark, bright = (-trace).relu(), trace.relu()
    std, mean = (v[:, 0] for v in _std_mean(dark.flatten(1)))
    round_ = (gxx * gyy - gxy * gxy).relu().mean((1, 2)) / (trace.square().mean((1, 2)) + FLOOR)
    return torch.stack((4 * mean, std / (mean + 100 * FLOOR), 4 * bright.mean((1, 2)), 4 * round_), 1)


def _anisotropy(tensor: Tensor) -> Tensor:
    """Return the log gradient energy and the coherence of the whole tile's structure tensor (n, 3, m, m)."""
    xx, xy, yy = tensor.mean((2, 3)).unbind(1)
    return torch.stack((torch.log10(xx + yy + FLOOR), _coherence_of(xx, xy, yy)), 1)


def _coherence(pooled: Tensor) -> Tensor:
    """Return coherence's energy-weighted mean, spread and maximum, and how unevenly the energy lies: (n, 4).

    ``pooled``: structure tensor (xx, xy, yy) averaged over windows, (n, 3, k, k).
    """
    xx, xy, yy = pooled.flatten(2).unbind(1)
    energy, coherence = xx + yy, _coherence_of(xx, xy, yy)
    share = energy / (energy.sum(1, keepdim=True) + FLOOR)
    mean = (share * coherence).sum(1)
    spread = (share * (coherence - mean[:, None]).square()).sum(1).sqrt()
    std, level = (v[:, 0] for v in _std_mean(energy))
    return torch.stack((2 * mean, 2 * spread, coherence.amax(1), std / (level + FLOOR)), 1)


def _coherence_of(xx: Tensor, xy: Tensor, yy: Tensor) -> Tensor:
    """Return 0 for no preferred orientation to 1 for a single one."""
    return torch.hypot(xx - yy, 2 * xy) / (xx + yy + FLOOR)


def _binary_patterns(image_nmm: Tensor) -> Tensor:
    """Return the histogram of uniform rotation-invariant local binary patterns, 8 neighbours: (n, 10)."""
    centre = image_nmm[:, 1:-1, 1:-1] + 0.01
    ring = ((0, 0), (0, 1), (0, 2), (1, 2), (2, 2), (2, 1), (2, 0), (1, 0))
    rows, columns = centre.shape[1:]
    bits = torch.stack([image_nmm[:, y : y + rows, x : x + columns] > centre for y, x in ring], 1)
    changes = (bits != bits.roll(1, 1)).sum(1)
    codes = torch.where(changes <= 2, bits.sum(1), 9).flatten(1)
    return torch.stack([(codes == code).float().mean(1) for code in range(10)], 1)


def _local_contrast(image_nmm: Tensor) -> Tensor:
    """Return quantiles of the standard deviation in 4-pixel windows: (n, quantiles)."""
    first, second = (_halved(_halved(v)) for v in (image_nmm, image_nmm * image_nmm))
    return 4 * _quantiles((second - first * first).clamp_min(0).sqrt())
