"""The arrays that every package passes around, each named once."""

import numpy as np
from numpy.typing import NDArray

RGB = NDArray[np.uint8]
"""uint8 (height, width, 3), red green blue."""
