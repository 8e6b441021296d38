"""The first-day signals that contribute most to the choice of a listener's segment.

Each signal is removed in turn and the network is evaluated again, all in one batch. The contribution of a signal is the
increase of the distance to the centroid of the chosen segment: it is measured, not derived from weights. Removing a
streamed track also removes its artist and album where the release filled those in.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from models.cold_start.top_k import normalise
from serving.recommend.signals import completed, first_days
from serving.release.loaded import Ready
from serving.schema import Listener

CONSIDERED = 60  # number of signals that are removed in turn; further ones are not measured
SHOWN = 5


def top_signals(ready: Ready, listener: Listener, vector_D: np.ndarray, segment: int) -> dict[str, Any]:
    """Return `top_signals` and `n_signals` of schema.Reasons.

    Raises:
        Exception: whatever the network raises.
    """
    lists = {signal: ids for signal, ids in listener.lists().items() if ids}
    given = listener.lists()
    items: list[tuple[str, int | str]] = []
    if listener.country is not None:
        items.append(("country", listener.country))
    if listener.age is not None:
        items.append(("age", listener.age))
    items += [(signal, i) for signal, ids in lists.items() for i in dict.fromkeys(ids)]
    items = items[:CONSIDERED]
    if not items:
        return {"top_signals": [], "n_signals": 0}
    who, signals = [], []
    for signal, item in items:
        who.append((None if signal == "country" else listener.country, None if signal == "age" else listener.age))
        without = given if signal in ("country", "age") else {**given, signal: [i for i in given[signal] if i != item]}
        signals.append(completed(ready, without))
    found_BD = ready.space.vectors(ready.inputs(first_days(who, signals)))
    gap_BD = normalise(np.concatenate([vector_D[None], found_BD])) - ready.space.centroids_KD[segment]
    distance = np.sqrt(np.vecdot(gap_BD, gap_BD))
    pull = distance[1:] - distance[0]
    order = [int(i) for i in np.argsort(-pull, kind="stable")[:SHOWN] if pull[i] > 0]
    return {
        "top_signals": [
            {
                "signal": items[i][0],
                "id": items[i][1],
                "name": name_of(ready, *items[i]),
                "contribution": round(float(pull[i]), 6),
            }
            for i in order
        ],
        "n_signals": len(items),
    }


def name_of(ready: Ready, signal: str, item: int | str) -> str | None:
    """Return the displayed name of a signal's entity."""
    if isinstance(item, str) or "." not in signal:
        return str(item)
    return ready.label(signal.split(".")[1], item)
