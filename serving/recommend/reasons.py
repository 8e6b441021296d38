"""The first-day signals that contribute most to the choice of a listener's segment.

Each signal is removed in turn and the network is evaluated again, all in one batch. The contribution of a signal is the
increase of the distance to the centroid of the chosen segment: it is measured, not derived from weights. Removing a
streamed track also removes its artist and album where the release filled those in.
"""

from __future__ import annotations

import numpy as np

from models.cold_start.top_k import normalise
from serving.bodies import SignalsBody
from serving.recommend.signals import FirstDaySignals, complete_signals, first_days
from serving.release.loaded import LoadedRelease

MAX_MEASURED = 60  # number of signals that are removed in turn; further ones are not measured
MAX_SHOWN = 5


def top_signals(loaded: LoadedRelease, listener: FirstDaySignals, vector_D: np.ndarray, segment: int) -> SignalsBody:
    """Return `top_signals` and `n_signals` of schema.Reasons.

    Raises:
        Exception: whatever the network raises.
    """
    given = listener.lists
    # Signal, id inside (None for country and age), and the text of the response.
    items: list[tuple[str, int | None, str]] = []
    if listener.country is not None:
        items.append(("country", None, listener.country))
    if listener.age is not None:
        items.append(("age", None, str(listener.age)))
    for signal, ids in given.items():
        items += [(signal, i, text) for i, text in dict(zip(ids, listener.external[signal], strict=True)).items()]
    items = items[:MAX_MEASURED]
    if not items:
        return {"top_signals": [], "n_signals": 0}
    country_age, signals = [], []
    for signal, item, _ in items:
        country_age.append(
            (None if signal == "country" else listener.country, None if signal == "age" else listener.age)
        )
        without = given if item is None else {**given, signal: [i for i in given[signal] if i != item]}
        signals.append(complete_signals(loaded, without))
    found_BD = loaded.space.vectors(loaded.inputs(first_days(country_age, signals)))
    gap_BD = normalise(np.concatenate([vector_D[None], found_BD])) - loaded.space.centroids_KD[segment]
    distance = np.sqrt(np.vecdot(gap_BD, gap_BD))
    contribution = distance[1:] - distance[0]
    order = [int(i) for i in np.argsort(-contribution, kind="stable")[:MAX_SHOWN] if contribution[i] > 0]
    return {
        "top_signals": [
            {
                "signal": items[i][0],
                "id": items[i][2],
                "name": name_of(loaded, *items[i]),
                "contribution": round(float(contribution[i]), 6),
            }
            for i in order
        ],
        "n_signals": len(items),
    }


def name_of(loaded: LoadedRelease, signal: str, item: int | None, text: str) -> str | None:
    """Return the displayed name of a signal's entity; of a country or an age, its text."""
    return text if item is None else loaded.label(signal.split(".")[1], item)
