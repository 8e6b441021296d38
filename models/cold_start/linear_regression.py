"""Linear regression from input vectors to user vectors: the ablation of the cold-start network.

Shapes   U training users, B listeners, F values of an input vector, D width of the space
Source   Briand et al. 2021, section 4.1.4: "a 1-layer neural network i.e. a simpler linear regression model"
Differs  The least squares are solved exactly instead of by gradient descent, on standardised columns, with a small
         ridge: several columns of an input vector are equal by definition (the counts of skipped songs, artists and
         albums), and some are constant
Memory   two (F, F) float64 matrices; input rows are read in chunks
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from models.arrays import FloatMatrix
from models.cold_start.methods.base import Predict

RIDGE = 0.01  # added to the variance of each standardised column, which is 1
_CHUNK = 4096


def fit_linear_regression(x_UF: FloatMatrix, y_UD: FloatMatrix, ridge: float = RIDGE) -> Predict:
    """Return the prediction function of the least squares fit: input vectors (B, F) -> vectors (B, D) float32.

    Args:
        x_UF: input vectors of the training users; may be memory-mapped.
        y_UD: vectors of the same users.
        ridge: L2 regularisation, relative to the variance of a column.

    Raises:
        ValueError: shapes do not match, there is no user, a value is NaN or infinite, or the ridge is not above 0.
    """
    if x_UF.ndim != 2 or y_UD.ndim != 2 or len(x_UF) != len(y_UD) or not len(x_UF):
        raise ValueError(f"linear regression: x and y must have a row for each user, got {x_UF.shape} and {y_UD.shape}")
    if not ridge > 0:
        raise ValueError(f"linear regression: ridge must be above 0, got {ridge}")
    n, f = x_UF.shape
    sum_F, gram_FF, product_FD = np.zeros(f), np.zeros((f, f)), np.zeros((f, y_UD.shape[1]))
    mean_D = y_UD.mean(axis=0, dtype=np.float64)
    for start in range(0, n, _CHUNK):
        x = np.asarray(x_UF[start : start + _CHUNK], np.float64)
        sum_F += x.sum(axis=0)
        gram_FF += x.T @ x
        product_FD += x.T @ (y_UD[start : start + _CHUNK] - mean_D)
    if not (np.isfinite(sum_F).all() and np.isfinite(product_FD).all()):
        raise ValueError("linear regression: x or y contains NaN or infinity")
    mean_F = sum_F / n
    gram_FF /= n
    gram_FF -= np.outer(mean_F, mean_F)
    variance_F = np.maximum(gram_FF.diagonal(), 0)
    # A column that is constant up to rounding has no weight.
    is_constant_F = variance_F <= 1e-12 * (mean_F**2 + 1e-12)
    scale_F = np.where(is_constant_F, 0, 1 / np.sqrt(np.where(is_constant_F, 1, variance_F)))
    gram_FF *= scale_F
    gram_FF *= scale_F[:, None]
    gram_FF[np.diag_indices(f)] += ridge
    weight_FD = scale_F[:, None] * np.linalg.solve(gram_FF, scale_F[:, None] * product_FD / n)
    intercept_D = mean_D - mean_F @ weight_FD

    def predict(x_BF: ArrayLike) -> FloatMatrix:
        # In float64: the products of a row must not depend on the other rows of a batch.
        vectors_BD: FloatMatrix = (np.asarray(x_BF, np.float64) @ weight_FD + intercept_D).astype(np.float32)
        return vectors_BD

    return predict
