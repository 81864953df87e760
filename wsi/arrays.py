"""The arrays that every package passes around, each named once."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

RGB = NDArray[np.uint8]
"""uint8 (height, width, 3), red green blue."""
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Features = NDArray[np.floating[Any]]
"""float16 or float32 (n, dim): a row for each tile."""
Bools = NDArray[np.bool_]
"""bool, of the shape that its name or docstring tells."""
