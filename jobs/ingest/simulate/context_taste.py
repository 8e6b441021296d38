"""The option `simulate.context_taste`: what a listener streams depends on the day part and the kind of day.

In each context a listener's weights over the own scenes are multiplied by factors. The logarithm of a factor is normal
with standard deviation SPREAD at strength 1. A part of its variance belongs to the genre of the scene and is the same
for all listeners: some genres are for mornings. The rest belongs to the listener and the scene.

Shapes  B users, K scenes of a user, S scenes, G genres, C contexts
Time    day parts are six hours of UTC: night, morning, afternoon, evening; each is one context from Monday to Friday
        and another at the weekend. A session belongs to the context of its start, a first day to that of the
        registration
"""

from __future__ import annotations

import numpy as np

from jobs.ingest.simulate.catalogue import GENRES, stack_rows

DAY = 86_400
DAY_PARTS = 4
N_CONTEXTS = 2 * DAY_PARTS
SPREAD, SHARED = 1.5, 0.5  # standard deviation at strength 1; share of the variance that belongs to the genre
HOURS = (1.5, 1.2)  # of the beta distribution of the start of a session within its day
LAST_START = DAY - 1800


def contexts(second: np.ndarray, weekday: np.ndarray) -> np.ndarray:
    """Return the context of each second of a day (n,) on a weekday (n,), 0 = Monday: (n,) int64 below N_CONTEXTS."""
    return np.asarray(DAY_PARTS * (weekday >= 5) + second * DAY_PARTS // DAY)


def draw_session_starts(n: int, rng: np.random.Generator) -> np.ndarray:
    """Draw the second of the day at which each session (n,) starts: all day parts have sessions, the night has few."""
    return (LAST_START * rng.beta(*HOURS, n)).astype(np.int64)


def draw_context_weights(
    weights_BK: np.ndarray, genre_BK: np.ndarray, strength: float, seed: int, rng: np.random.Generator
) -> np.ndarray:
    """Return the weights of each user's scenes in each context as `stack_rows` of (B * C, K).

    Args:
        weights_BK: weights of the scenes without a context.
        genre_BK: genre of each scene, as an index.
        strength: `simulate.context_taste`.
        seed: seed of the simulation, which the part of the genres depends on.
        rng: generator of the block, for the part of the listeners.
    """
    by_genre_CG = np.random.default_rng(np.random.SeedSequence((seed, 60))).standard_normal((N_CONTEXTS, len(GENRES)))
    n, k = weights_BK.shape
    own_BCK = rng.standard_normal((n, N_CONTEXTS, k))
    of_genre_BCK = np.moveaxis(by_genre_CG[:, genre_BK], 0, 1)
    factor_BCK = np.exp(SPREAD * strength * (np.sqrt(SHARED) * of_genre_BCK + np.sqrt(1 - SHARED) * own_BCK))
    return stack_rows((weights_BK[:, None] * factor_BCK).reshape(n * N_CONTEXTS, k))
