"""Selection of relevant candidates that differ from each other: maximal marginal relevance.

Shapes   P candidates, D width of their vectors, n places
Source   Carbonell, Goldstein 1998
"""

from __future__ import annotations

import numpy as np

from models.arrays import FloatMatrix, FloatVector


def select_diverse(relevance_P: FloatVector, unit_PD: FloatMatrix, n: int, diversity: float) -> list[int]:
    """Return the indices of n candidates, best first.

    Each place maximises (1 - diversity) * relevance - diversity * similarity to the nearest chosen candidate. The first
    place gets the most relevant candidate, whatever the diversity, because it is seen most.

    Args:
        relevance_P: relevance of each candidate.
        unit_PD: vectors of the candidates, at unit length.
        n: number of places; fewer are filled if there are fewer candidates.
        diversity: weight of the similarity, 0 to 1.
    """
    chosen: list[int] = []
    similarity_P = np.zeros(len(relevance_P), np.float32)
    free = np.ones(len(relevance_P), bool)
    while len(chosen) < min(n, len(relevance_P)):
        score_P = np.where(free, (1 - diversity) * relevance_P - diversity * similarity_P, -np.inf)
        best = int(np.argmax(score_P if chosen else relevance_P))
        similarity = unit_PD @ unit_PD[best]
        similarity_P = np.maximum(similarity_P, similarity) if chosen else similarity
        chosen.append(best)
        free[best] = False
    return chosen
