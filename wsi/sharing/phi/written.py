"""What is written in a picture of a label, read by tesseract where this machine has it."""

import io
import shutil
import subprocess
from collections.abc import Callable
from typing import Any

import numpy as np

from wsi.sharing.phi.texts import Found, Place

_MOST_PX = 40_000_000
_SECONDS = 60
"""For one reading; a picture that takes longer is none of a label."""


def written_in(load: Callable[[], Any], where: str) -> Found:
    """Yield the words of a picture in each of four directions: labels stand on their side.

    Nothing is yielded where tesseract is not installed or the picture cannot be decoded: that a picture of a label is
    there is a finding by itself.

    Parameters
    ----------
    load
        Gives the pixels, uint8 (h, w) or (h, w, 3 or 4).
    where
        For a person: where the picture stands.
    """
    program = shutil.which("tesseract")
    if program is None:
        return
    try:
        picture = np.asarray(load())
    except Exception:  # decoders raise nearly anything on unusual pictures
        return
    if picture.dtype != np.uint8 or picture.ndim not in (2, 3) or not 0 < picture.size <= 4 * _MOST_PX:
        return
    words = [_read(program, np.rot90(picture, turns)) for turns in range(4)]
    if any(words):
        yield Place(f"written in the picture of {where}", "\n".join(words))


def _read(program: str, picture: np.ndarray[Any, np.dtype[np.uint8]]) -> str:
    from PIL import Image

    png = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(picture)).save(png, "PNG", compress_level=1)
    command = [program, "-", "-", "--psm", "11"]  # 11: words wherever they stand
    try:
        done = subprocess.run(command, input=png.getvalue(), capture_output=True, timeout=_SECONDS, check=False)
    except (subprocess.TimeoutExpired, OSError):
        return ""
    return done.stdout.decode("utf-8", "replace")
