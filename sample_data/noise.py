"""Smooth random fields: the one source of every irregular shape in the sample cohort."""

import cv2
import numpy as np

from wsi.arrays import FloatImage


def smooth_noise(rng: np.random.Generator, shape_yx: tuple[int, int], wavelength: float) -> FloatImage:
    """Return float32 (h, w) noise of mean about 0 and standard deviation about 1.

    White noise on a coarse lattice, interpolated with a cubic; ``wavelength`` is the lattice's step in samples of the
    result. A step below 1 counts as 1.
    """
    height, width = shape_yx
    step = max(1.0, wavelength)
    coarse = rng.standard_normal((int(height / step) + 4, int(width / step) + 4)).astype(np.float32)
    phase_y, phase_x = rng.uniform(1.0, 2.0, 2)
    matrix = np.array([[1 / step, 0, phase_x], [0, 1 / step, phase_y]], dtype=np.float64)
    flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    field = cv2.warpAffine(coarse, matrix, (width, height), flags=flags, borderMode=cv2.BORDER_REFLECT)
    return np.asarray(field * np.float32(1.35), dtype=np.float32)


def octaves(rng: np.random.Generator, shape_yx: tuple[int, int], wavelength: float, count: int) -> FloatImage:
    """Return the sum of ``count`` smooth noises, each half as long and 0.55 times as high as the one before."""
    total = np.zeros(shape_yx, dtype=np.float32)
    for octave in range(count):
        total += np.float32(0.55**octave) * smooth_noise(rng, shape_yx, wavelength / 2**octave)
    return total


def tileable_noise(
    rng: np.random.Generator, side: int, smallest: float, largest: float, fall: float = 1.0
) -> FloatImage:
    """Return float32 (side, side) noise that repeats without a seam, wavelengths ``smallest`` to ``largest`` in pixels.

    White noise filtered in the Fourier domain to the amplitude 1/f^``fall``; mean 0, standard deviation 1.
    """
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None, :])
    inside = (frequency >= 1 / largest) & (frequency <= 1 / smallest)
    gain = np.where(inside, np.maximum(frequency, 1 / side) ** -fall, 0.0)
    spectrum = np.fft.rfft2(rng.standard_normal((side, side))) * gain
    field = np.fft.irfft2(spectrum, s=(side, side))
    return np.asarray(field / field.std(), dtype=np.float32)
