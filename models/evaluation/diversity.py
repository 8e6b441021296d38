"""A row of candidates that fit and are unlike each other: maximal marginal relevance.

Shapes   P candidates, D width of their vectors, n places
Source   Carbonell, Goldstein 1998
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def select_diverse(
    relevance_P: NDArray[np.float32], unit_PD: NDArray[np.float32], n: int, diversity: float
) -> list[int]:
    """Places of n candidates, best first: (1 - diversity) * relevance - diversity * likeness to the nearest chosen.

    The first place is the most looked at: it goes to what is most relevant, whatever the diversity.
    """
    chosen: list[int] = []
    likeness_P = np.zeros(len(relevance_P), np.float32)
    free = np.ones(len(relevance_P), bool)
    while len(chosen) < min(n, len(relevance_P)):
        score_P = np.where(free, (1 - diversity) * relevance_P - diversity * likeness_P, -np.inf)
        best = int(np.argmax(score_P if chosen else relevance_P))
        likeness = unit_PD @ unit_PD[best]
        likeness_P = np.maximum(likeness_P, likeness) if chosen else likeness
        chosen.append(best)
        free[best] = False
    return chosen
