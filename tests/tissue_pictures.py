"""Overviews painted with known tissue: pale and strong stains, controls, pens, borders, uneven light, fluorescence.

Stains are painted as optical density over glass (Beer-Lambert), so a strength scales a stain as a thinner section does.
``seed`` chooses sizes, places, glass and textures: the method was fixed on `TUNED`, and is judged on `HELD_OUT`.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

UM_PER_PX = 8.0
TUNED, HELD_OUT = (1, 2, 11, 12), (21, 22, 23)
Density = NDArray[np.float32]
"""float32 (h, w, 3)."""
Truth = NDArray[np.bool_]
"""bool (h, w)."""
HAEMATOXYLIN, EOSIN, DAB = (0.65, 0.70, 0.29), (0.07, 0.99, 0.11), (0.27, 0.57, 0.78)
AZURE, FAST_RED, PICRIC = (0.75, 0.55, 0.20), (0.21, 0.85, 0.48), (0.05, 0.25, 0.95)
INKS = {"red": (0.06, 0.95, 0.95), "green": (0.95, 0.35, 0.65), "blue": (1.0, 0.5, 0.18), "black": (1.1, 1.12, 1.1)}
INKS |= {"grey": (0.75, 0.76, 0.74), "navy": (1.3, 1.1, 0.45), "light blue": (0.55, 0.16, 0.05)}
LIKE_STAINS = {"purple": (0.45, 1.0, 0.35), "orange": (0.04, 0.4, 1.0), "pink": (0.05, 0.75, 0.3)}
LIKE_STAINS |= {"brown": (0.4, 0.7, 1.0), "yellow": (0.02, 0.06, 0.8), "faded light blue": (0.3, 0.09, 0.03)}
"""Inks that have the hue of a stain, or too little density: they are taken for tissue."""


@dataclass(frozen=True, slots=True)
class Picture:
    """An overview and what on it is tissue."""

    name: str
    rgb: NDArray[np.uint8]
    truth: Truth
    unsure: Truth
    """Where either answer is right: tissue under ink."""


@dataclass(slots=True)
class Sheet:
    """Glass that is painted on."""

    density: Density
    truth: Truth
    rng: np.random.Generator
    glass: tuple[int, int, int]
    unsure: Truth

    @property
    def shape(self) -> tuple[int, int]:
        return self.truth.shape[0], self.truth.shape[1]


def glass(seed: int) -> Sheet:
    """Return an empty slide."""
    rng = np.random.default_rng(seed)
    shape = (int(rng.integers(420, 700)), int(rng.integers(420, 700)))
    tint = [(241, 241, 243), (228, 226, 230), (246, 244, 240), (236, 240, 238), (220, 218, 215)][seed % 5]
    nothing = np.zeros(shape, bool)
    return Sheet(np.zeros((*shape, 3), np.float32), nothing, rng, tint, nothing.copy())


def grain(rng: np.random.Generator, shape: tuple[int, int], sigma: float) -> Density:
    """Return smooth noise of mean 0 and deviation 1."""
    noise = cv2.GaussianBlur(rng.normal(size=shape).astype(np.float32), (0, 0), sigma)
    return np.asarray((noise - noise.mean()) / noise.std(), np.float32)


def blob(sheet: Sheet, y: float, x: float, ry: float, rx: float) -> Truth:
    """Return an ellipse with an uneven border; all numbers are parts of the picture's sides."""
    h, w = sheet.shape
    yy, xx = np.mgrid[:h, :w]
    radius = ((yy / h - y) / ry) ** 2 + ((xx / w - x) / rx) ** 2
    return np.asarray(radius + 0.08 * grain(sheet.rng, sheet.shape, 10) < 1)


def two_pieces(sheet: Sheet) -> tuple[Truth, Truth]:
    """Return two pieces that do not touch, each of 5 to 15 % of the picture."""
    r = sheet.rng.uniform
    return (
        blob(sheet, r(0.27, 0.33), r(0.30, 0.36), r(0.17, 0.22), r(0.19, 0.24)),
        blob(sheet, r(0.68, 0.74), r(0.66, 0.72), r(0.15, 0.19), r(0.15, 0.19)),
    )


def stain(sheet: Sheet, strength: float, *parts: tuple[tuple[float, float, float], float, float]) -> Density:
    """Return a texture of stains, each as its colour, its mean density and the size of its structures in px."""
    total = np.zeros((*sheet.shape, 3), np.float32)
    for colour, mean, size in parts:
        fine = 0.35 * grain(sheet.rng, sheet.shape, 0.7) + 0.45 * grain(sheet.rng, sheet.shape, size)
        total += np.maximum(1 + fine, 0.05)[..., None] * np.array(colour, np.float32) * mean
    return total * strength


def he(sheet: Sheet, strength: float = 1.0) -> Density:
    return stain(sheet, strength, (HAEMATOXYLIN, 0.22, 4), (EOSIN, 0.28, 7))


def real(sheet: Sheet, strength: float = 1.0) -> Density:
    """Return a real texture, mirrored to fill the picture: IHC of scikit-image, or H&E where the shared slides are."""
    picture = _textures()[int(sheet.rng.integers(len(_textures())))]
    turned = np.rot90(picture, int(sheet.rng.integers(4)))
    row = np.concatenate([turned, turned[:, ::-1]], axis=1)
    tile = np.concatenate([row, row[::-1]], axis=0)
    h, w = sheet.shape
    tiled = np.tile(tile, (h // tile.shape[0] + 1, w // tile.shape[1] + 1, 1))[:h, :w]
    return np.asarray(tiled * strength, np.float32)


def _textures(cache: list[Density] = []) -> list[Density]:  # noqa: B006  # read once
    if not cache:
        from skimage import data

        ihc = cv2.resize(data.immunohistochemistry(), None, fx=0.25, fy=0.25, interpolation=cv2.INTER_AREA)
        cache.append(_density(ihc, (232, 230, 232)))
        shared = Path(__file__).resolve().parents[2] / "shared" / "slides" / "CMU-1-Small-Region.svs"
        if shared.is_file():
            import tifffile

            skin = tifffile.imread(shared, key=0)[2000:2900, 700:1500]
            skin = cv2.resize(skin, None, fx=1 / 8, fy=1 / 8, interpolation=cv2.INTER_AREA)
            cache.append(_density(skin, (243, 243, 243)))
    return cache


def _density(rgb: NDArray[np.uint8], empty: tuple[int, int, int]) -> Density:
    return np.asarray(np.maximum(np.log10((np.array(empty) + 1.0) / (rgb + 1.0)), 0), np.float32)


def put(sheet: Sheet, where: Truth, texture: Density, *, tissue: bool = True) -> None:
    """Lay a texture on the glass."""
    sheet.density[where] += texture[where]
    if tissue:
        sheet.truth |= where


def draw_ink(sheet: Sheet, ink: str, *, filled: bool, width: int, over: bool = False) -> None:
    """Draw a pen: a ring and letters, or filled patches; over the tissue only where asked."""
    h, w = sheet.shape
    layer = np.zeros(sheet.shape, np.uint8)
    if filled:
        cv2.rectangle(layer, (int(w * 0.72), int(h * 0.1)), (int(w * 0.92), int(h * 0.2)), 1, -1)
        cv2.circle(layer, (int(w * 0.2), int(h * 0.8)), int(h * 0.07), 1, -1)
    else:
        cv2.ellipse(layer, (int(w * 0.33), int(h * 0.3)), (int(w * 0.29), int(h * 0.27)), 0, 0, 360, 1, width)
        cv2.putText(layer, "A 7", (int(w * 0.7), int(h * 0.2)), cv2.FONT_HERSHEY_SIMPLEX, h / 300, 1, width)
    if over:
        cv2.line(layer, (int(w * 0.5), int(h * 0.5)), (int(w * 0.9), int(h * 0.9)), 1, width)
    inked = layer > 0
    if not over:
        inked &= ~sheet.truth
    sheet.unsure |= cv2.dilate((inked & sheet.truth).astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
    even = 1 + 0.05 * grain(sheet.rng, sheet.shape, 12)
    soft = cv2.GaussianBlur(inked.astype(np.float32), (0, 0), 0.6) * even
    sheet.density += soft[..., None] * np.array((INKS | LIKE_STAINS).get(ink, (0, 0, 0)), np.float32)


def lay(sheet: Sheet, where: Truth, strength: float, texture: Callable[[Sheet, float], Density] | None = None) -> None:
    """Lay tissue; of a real texture, either answer is right where it is empty over more than 70 um."""
    texture = texture or (real if sheet.rng.random() < 0.5 else he)
    density = texture(sheet, strength)
    put(sheet, where, density)
    if texture is real:
        sheet.unsure |= where & (cv2.blur(density.max(axis=2), (9, 9)) < 0.08 * strength)


def develop(sheet: Sheet, name: str, noise: float = 1.0) -> Picture:
    """Return what a scanner sees."""
    light = (np.array(sheet.glass) + 1) * 10.0**-sheet.density - 1
    rgb = np.clip(light + sheet.rng.normal(0, noise, light.shape), 0, 255).astype(np.uint8)
    return Picture(name, rgb, sheet.truth, sheet.unsure)


def framed(picture: Picture, border: NDArray[np.float32], inside: Truth) -> Picture:
    rgb = np.where(inside[..., None], picture.rgb, np.clip(border, 0, 255)).astype(np.uint8)
    return Picture(picture.name, rgb, picture.truth & inside, picture.unsure)


Painter = Callable[[int], Picture]


def pale(seed: int, strength: float, texture: Callable[[Sheet, float], Density] = he, noise: float = 1.0) -> Picture:
    sheet = glass(seed)
    for piece in two_pieces(sheet):
        lay(sheet, piece, strength, texture)
    return develop(sheet, f"{texture.__name__} {strength}", noise)


def ihc_on_pale(seed: int, strength: float, amount: float) -> Picture:
    sheet = glass(seed)
    for piece in two_pieces(sheet):
        lay(sheet, piece, strength)
        positive = piece & (
            grain(sheet.rng, sheet.shape, 5) > np.quantile(grain(sheet.rng, sheet.shape, 5), 1 - amount)
        )
        put(sheet, positive, stain(sheet, 1.0, (DAB, 1.1, 4)))
    return develop(sheet, f"DAB on {amount:.0%} of pale {strength}")


def control(seed: int, strength: float) -> Picture:
    sheet = glass(seed)
    for piece in two_pieces(sheet):
        put(sheet, piece, he(sheet, strength))
    put(sheet, blob(sheet, 0.85, 0.15, 0.08, 0.1), stain(sheet, 1.0, (DAB, 1.3, 3), (HAEMATOXYLIN, 0.3, 3)))
    return develop(sheet, f"dark control, pale {strength}")


def pen(seed: int, ink: str, strength: float, *, filled: bool, over: bool = False) -> Picture:
    sheet = glass(seed)
    for piece in two_pieces(sheet):
        lay(sheet, piece, strength)
    draw_ink(sheet, ink, filled=filled, width=int(sheet.rng.integers(5, 20)), over=over)
    return develop(sheet, f"{ink} pen {'filled' if filled else 'drawn'}{' over' if over else ''}, pale {strength}")


def border(seed: int, level: int, sides: str, noise: float = 0.0, soft: float = 0.0, strength: float = 1.0) -> Picture:
    picture = pale(seed, strength, real if seed % 2 else he)
    rng = np.random.default_rng(seed)
    h, w = picture.truth.shape
    part = rng.uniform(0.04, 0.13)
    inside = np.zeros((h, w), bool)
    y, x = int(h * part), int(w * part)
    inside[y * ("t" in sides) : h - y * ("b" in sides), x * ("l" in sides) : w - x * ("r" in sides)] = True
    frame = level + rng.normal(0, noise, (h, w, 3)) if noise else np.full((h, w, 3), float(level))
    name = f"border {level} on {sides}{f', noise {noise:.0f}' if noise else ''}{f', soft {soft:.0f}' if soft else ''}"
    if soft:
        share = cv2.GaussianBlur(inside.astype(np.float32), (0, 0), soft)[..., None]
        rgb = np.clip(picture.rgb * share + frame * (1 - share), 0, 255).astype(np.uint8)
        unsure = (share[..., 0] > 0.02) & (share[..., 0] < 0.98) & picture.truth
        return Picture(name, rgb, picture.truth & inside, picture.unsure | unsure)
    return framed(Picture(name, picture.rgb, picture.truth, picture.unsure), frame.astype(np.float32), inside)


def vignette(seed: int, depth: float, strength: float) -> Picture:
    sheet = glass(seed)
    for piece in two_pieces(sheet):
        put(sheet, piece, he(sheet, strength))
    h, w = sheet.shape
    yy, xx = np.mgrid[-1 : 1 : h * 1j, -1 : 1 : w * 1j]
    sheet.density -= np.log10(1 - depth * (yy**2 + xx**2) / 2)[..., None].astype(np.float32)
    return develop(sheet, f"vignette {depth:.0%}, pale {strength}")


def seams(seed: int, step: float, strength: float) -> Picture:
    sheet = glass(seed)
    for piece in two_pieces(sheet):
        put(sheet, piece, he(sheet, strength))
    h, w = sheet.shape
    side = int(sheet.rng.integers(50, 90))
    fields = sheet.rng.uniform(0, step, (h // side + 1, w // side + 1)).repeat(side, 0).repeat(side, 1)[:h, :w]
    sheet.density += fields[..., None].astype(np.float32)
    return develop(sheet, f"seams {step}, pale {strength}")


def cover_slip(seed: int, strength: float) -> Picture:
    sheet = glass(seed)
    for piece in two_pieces(sheet):
        put(sheet, piece, he(sheet, strength))
    h, w = sheet.shape
    for inset, width, depth in ((0.03, 3, 0.25), (0.95, 2, 0.5)):
        line = np.zeros(sheet.shape, np.uint8)
        cv2.line(line, (int(w * inset), 0), (int(w * inset) + 6, h), 1, width)
        cv2.line(line, (0, int(h * inset)), (w, int(h * inset) - 4), 1, width)
        sheet.density[line > 0] += depth
    return develop(sheet, f"cover slip edges, pale {strength}")


def tiny(seed: int) -> Picture:
    sheet = glass(seed)
    for y in (0.2, 0.5, 0.8):
        for x in (0.25, 0.7):
            size = sheet.rng.uniform(0.022, 0.04)
            put(sheet, blob(sheet, y, x, size, size), he(sheet, 0.7))
    return develop(sheet, "tiny pieces")


def clots(seed: int, strength: float) -> Picture:
    sheet = glass(seed)
    first, second = two_pieces(sheet)
    put(sheet, first, stain(sheet, 1.0, ((0.55, 1.0, 1.0), 1.0, 8)))
    put(sheet, second, he(sheet, strength))
    return develop(sheet, f"dark clot beside pale {strength}")


def black_clot(seed: int) -> Picture:
    sheet = glass(seed)
    edge = blob(sheet, 0.5, 0.02, 0.3, 0.35)
    put(sheet, edge, stain(sheet, 1.0, ((0.7, 1.2, 1.1), 1.0, 10)))
    return develop(sheet, "dark clot at the edge")


def fat(seed: int, strength: float) -> Picture:
    """Fat cells of 60 to 100 um between thin walls."""
    sheet = glass(seed)
    centres = sheet.rng.uniform(0, 1, (sheet.shape[0] * sheet.shape[1] // 90, 2)) * sheet.shape
    cells = np.ones(sheet.shape, np.uint8)
    cells[centres[:, 0].astype(int), centres[:, 1].astype(int)] = 0
    _, labels = cv2.distanceTransformWithLabels(cells, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    walls = cv2.morphologyEx(labels.astype(np.float32), cv2.MORPH_GRADIENT, np.ones((2, 2), np.uint8)) > 0
    for piece in two_pieces(sheet):
        put(sheet, piece, he(sheet, strength) * walls[..., None])
    return develop(sheet, f"fat {strength}")


def smear(seed: int, density: float) -> Picture:
    """Blue-violet cells strewn over most of the slide, denser in the middle."""
    sheet = glass(seed)
    where = blob(sheet, 0.5, 0.5, 0.4, 0.42)
    h, w = sheet.shape
    cells = sheet.rng.random((2 * h, 2 * w)) < density
    covered = cv2.resize(cells.astype(np.float32), (w, h), interpolation=cv2.INTER_AREA)
    covered *= 1 + 0.3 * grain(sheet.rng, sheet.shape, 6)
    colours = np.array(AZURE if seed % 2 else (0.8, 0.75, 0.25), np.float32)
    put(sheet, where, (np.maximum(covered, 0.02)[..., None] * colours * sheet.rng.uniform(0.8, 1.4)).astype(np.float32))
    return develop(sheet, f"blue smear {density}")


def fluorescence(seed: int, dim: float) -> Picture:
    sheet = glass(seed)
    first, second = two_pieces(sheet)
    colour = np.array([(25, 45, 220), (30, 200, 60), (190, 190, 190)][seed % 3])
    nuclei = np.maximum(0, 0.6 + 0.4 * grain(sheet.rng, sheet.shape, 0.8) + 0.2 * grain(sheet.rng, sheet.shape, 5))
    light = first * 1.0 + second * dim
    rgb = 4 + (nuclei * light)[..., None] * colour + sheet.rng.normal(0, 1.5, (*sheet.shape, 3))
    return Picture(f"fluorescence, dim {dim}", np.clip(rgb, 0, 255).astype(np.uint8), first | second, sheet.unsure)


def covered(seed: int, strength: float) -> Picture:
    sheet = glass(seed)
    lay(sheet, np.ones(sheet.shape, bool), strength)
    return develop(sheet, f"all covered, {strength}")


def unscanned(seed: int, level: int, strength: float) -> Picture:
    picture = pale(seed, strength)
    h, w = picture.truth.shape
    inside = np.ones((h, w), bool)
    inside[: h // 6, : w // 2] = inside[h - h // 9 :, w // 3 :] = inside[:, w - w // 12 :] = False
    blank = np.full((h, w, 3), float(level), np.float32)
    return framed(
        Picture(f"unscanned {level}, pale {strength}", picture.rgb, picture.truth, picture.unsure), blank, inside
    )


def tinted(seed: int, strength: float) -> Picture:
    sheet = glass(seed)
    sheet.glass = [(150, 220, 160), (190, 230, 195), (170, 215, 170)][seed % 3]
    for piece in two_pieces(sheet):
        put(sheet, piece, he(sheet, strength))
    return develop(sheet, f"green glass, {strength}")


def stained(seed: int, name: str, strength: float) -> Picture:
    colours = {"trichrome": (AZURE, EOSIN), "fast red": (FAST_RED, HAEMATOXYLIN), "picric": (PICRIC, EOSIN)}[name]
    sheet = glass(seed)
    for piece in two_pieces(sheet):
        put(sheet, piece, stain(sheet, strength, (colours[0], 0.3, 6), (colours[1], 0.12, 4)))
    return develop(sheet, f"{name} {strength}")


def pictures(seeds: tuple[int, ...]) -> Iterator[Picture]:
    """Paint every kind for each seed."""
    for seed in seeds:
        shift = 0.03 * (seed % 4)
        yield from (pale(seed, round(s + shift, 2), texture) for s in (0.1, 0.2, 0.4, 0.8) for texture in (he, real))
        yield pale(seed, 0.3, he, noise=4)
        yield from (fat(seed, s) for s in (0.35, 0.8))
        yield from (ihc_on_pale(seed, s, a) for s, a in ((0.15, 0.05), (0.2, 0.3), (0.3, 0.15), (0.5, 0.5)))
        yield from (control(seed, s) for s in (0.12, 0.3))
        yield from (pen(seed, ink, 0.2 + shift, filled=f) for ink in INKS for f in (True, False))
        yield from (pen(seed, ink, 0.5, filled=False, over=True) for ink in ("blue", "black", "red", "green"))
        yield from (border(seed, level, "tblr") for level in (2, 15, 40, 60, 110))
        yield from (border(seed, 12, sides) for sides in ("l", "tb", "tr"))
        yield border(seed, 20, "tblr", noise=8, strength=0.3)
        yield border(seed, 60, "tlr", noise=5, strength=0.4)
        yield border(seed, 10, "tblr", soft=4, strength=0.5)
        yield from (vignette(seed, 0.2, 0.2), vignette(seed, 0.35, 0.4), seams(seed, 0.02, 0.2), seams(seed, 0.04, 0.4))
        yield from (cover_slip(seed, 0.2), tiny(seed), clots(seed, 0.2), black_clot(seed))
        yield from (smear(seed, d) for d in (0.15, 0.4, 0.7, 0.95))
        yield from (fluorescence(seed, dim) for dim in (1.0, 0.3))
        yield from (covered(seed, s) for s in (1.0, 0.4))
        yield from (unscanned(seed, level, 0.3) for level in (255, 0, 205))
        yield from (tinted(seed, s) for s in (0.25, 0.8))
        yield from (stained(seed, n, s) for n in ("trichrome", "fast red", "picric") for s in (0.25, 0.8))
