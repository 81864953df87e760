"""Write the sheet of all formulas for the documentation, and the golden figures that the tests compare with.

python tests/making_formulas.py docs/formulas.png [tests/features/formulas/golden.json]
"""

import json
import sys
from pathlib import Path

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from features.formulas import FORMULAS, formula

SIZE_PX, CLASSES, COLUMNS, LABEL_PX = 96, 10, 10, 14
GOLDEN_PX, GOLDEN_BLOCKS = 64, 4


def golden_figures(name: str) -> list[list[float]]:
    """Return block means of two classes' first pictures: (2, 3 x 4 x 4)."""
    pictures = formula(name, classes=CLASSES, seed=0).draw(torch.tensor([0, 1]), torch.tensor([0, 0]), GOLDEN_PX)
    side = GOLDEN_PX // GOLDEN_BLOCKS
    means = pictures.unflatten(3, (-1, side)).unflatten(2, (-1, side)).mean((3, 5)).flatten(1)
    return [[round(v, 4) for v in row] for row in means.tolist()]


def row(name: str) -> Tensor:
    """Return pictures side by side: five classes, two instances of each, (3, size, columns x size)."""
    index = torch.arange(COLUMNS)
    return torch.cat(list(formula(name, classes=CLASSES, seed=0).draw(index // 2, index % 2, SIZE_PX)), 2)


def sheet() -> Image.Image:
    """Return all families, one below the other."""
    picture = Image.new("RGB", (COLUMNS * SIZE_PX, len(FORMULAS) * (SIZE_PX + LABEL_PX)), "white")
    write = ImageDraw.Draw(picture)
    for index, name in enumerate(FORMULAS):
        top = index * (SIZE_PX + LABEL_PX)
        write.text((3, top + 1), name, fill="black")
        pixels = (row(name) * 255).round().byte().permute(1, 2, 0).numpy()
        picture.paste(Image.fromarray(pixels), (0, top + LABEL_PX))
    return picture


if __name__ == "__main__":
    sheet().quantize(128).save(sys.argv[1], optimize=True)
    if len(sys.argv) > 2:
        Path(sys.argv[2]).write_text(json.dumps({name: golden_figures(name) for name in FORMULAS}, indent=0) + "\n")
