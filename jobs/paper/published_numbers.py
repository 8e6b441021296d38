"""Numbers published by Briand et al. 2021: Table 1, the slice without interaction, exact Popularity, run times.

Source   Table 1 and section 4.1.4 of the paper; the exact figures of Popularity and the run times are those that the
         authors' code produces and its documentation states for "a standard machine"
"""

from __future__ import annotations

from jobs.settings.base import Space

METRICS = ("precision", "recall", "ndcg")
# Name of a method -> its name in the paper, in the order of Table 1.
TITLES = {
    "popularity": "Popularity",
    "registration_day_streams": "Registration Day Streams",
    "input_features_clustering": "Input Features Clustering",
    "dropoutnet_full": "DropoutNet Full-Pers.",
    "dropoutnet_semi": "DropoutNet Semi-Pers.",
    "melu_full": "MeLU Full-Pers.",
    "melu_semi": "MeLU Semi-Pers.",
    "full_pers": "Deezer Full-Pers.",
    "semi_pers": "Deezer Semi-Pers.",
}
# (mean, ±) of precision, recall and NDCG @50 in %.
Row = tuple[tuple[float, float], tuple[float, float], tuple[float, float]]
POPULARITY: Row = ((8.92, 0.21), (3.01, 0.08), (9.72, 0.20))
TABLE_1: dict[Space, dict[str, Row]] = {
    "tt_svd": {
        "popularity": POPULARITY,
        "registration_day_streams": ((9.30, 0.22), (3.48, 0.06), (9.73, 0.23)),
        "input_features_clustering": ((8.84, 0.22), (2.97, 0.08), (9.75, 0.23)),
        "dropoutnet_full": ((10.04, 0.27), (3.75, 0.11), (10.46, 0.29)),
        "dropoutnet_semi": ((20.85, 0.35), (7.55, 0.12), (22.61, 0.36)),
        "melu_full": ((15.00, 0.40), (5.12, 0.17), (16.79, 0.45)),
        "melu_semi": ((19.66, 0.36), (6.87, 0.16), (21.63, 0.40)),
        "full_pers": ((9.58, 0.18), (3.53, 0.03), (9.77, 0.17)),
        "semi_pers": ((22.75, 0.32), (8.26, 0.15), (24.59, 0.30)),
    },
    "ut_als": {
        "popularity": POPULARITY,
        "registration_day_streams": ((16.88, 0.46), (5.99, 0.11), (17.72, 0.43)),
        "input_features_clustering": ((8.85, 0.22), (2.98, 0.08), (9.75, 0.22)),
        "dropoutnet_full": ((16.30, 0.50), (5.77, 0.50), (17.62, 0.54)),
        "dropoutnet_semi": ((19.83, 0.32), (6.93, 0.16), (21.55, 0.44)),
        "melu_full": ((13.92, 0.36), (4.71, 0.12), (15.49, 0.39)),
        "melu_semi": ((19.35, 0.43), (6.71, 0.14), (21.33, 0.45)),
        "full_pers": ((18.50, 0.43), (6.63, 0.10), (20.22, 0.41)),
        "semi_pers": ((19.00, 0.42), (6.93, 0.10), (20.38, 0.45)),
    },
}
# Popularity on the published files, in %. An exact match checks loader, ids and metrics at once.
EXACT_POPULARITY = {"precision": 8.9222, "recall": 3.0122, "ndcg": 9.7217}
# Precision@50 in % of Deezer Semi-Pers. for users without any interaction, and the share of these users.
NO_INTERACTION: dict[tuple[Space, str], float] = {("tt_svd", "semi_pers"): 17.74}
NO_INTERACTION_SHARE = 0.05
# Seconds of the authors' code on "a standard machine", by stage of this program.
SECONDS = {
    "read the files": 5_084.0,
    "segments and rankings": 14_672.0,
    "evaluate full_pers": 1_418.0,
    "evaluate semi_pers": 991.0,
}
TOP_TRACKS = 5_000  # "mainly recommends tracks among the 5 000 most popular"
