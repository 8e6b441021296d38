"""Named types of the NumPy arrays that models and jobs pass around.

A name states what an array contains and how many axes it has: `FloatMatrix` is a float32 array with two axes. NumPy's
own types carry the dtype only, so the number of axes is documentation, not checked by mypy. Shapes are written as
suffixes of variable names (`x_BF`), and the legend is in the docstring of each module.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

# float32: vectors of a space, input vectors, scores.
FloatVector = NDArray[np.float32]
FloatMatrix = NDArray[np.float32]

# float64: metrics, probabilities, statistics.
DoubleVector = NDArray[np.float64]
DoubleMatrix = NDArray[np.float64]

# int32: positions of tracks (track_idx), segments and users in their tables.
IntVector = NDArray[np.int32]
IntMatrix = NDArray[np.int32]

# int64: ids of users, tracks, artists and albums; offsets and counts.
IdVector = NDArray[np.int64]
LongVector = NDArray[np.int64]
LongMatrix = NDArray[np.int64]

# Masks.
BoolVector = NDArray[np.bool_]
BoolMatrix = NDArray[np.bool_]

# Strings and other Python objects, such as country codes with None for unknown.
ObjectVector = NDArray[np.object_]

# Any numeric dtype.
AnyVector = NDArray[Any]
AnyMatrix = NDArray[Any]
