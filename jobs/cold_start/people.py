"""Countries and age classes of the week's warm users."""

from __future__ import annotations

import numpy as np
import pandas as pd

from jobs.platform.context import Context
from models.cold_start.input_vector import AGE_CLASSES, age_classes


def warm_people(context: Context) -> pd.DataFrame:
    """Return one row per warm user in the order of user_idx: names of country and age class, None where unknown."""
    users = context.lake.read("users", columns=["user_id", "country", "age"]).to_pandas().set_index("user_id")
    warm = context.lake.read("warm_users", week=context.week.name).sort_by("user_idx")
    users = users.loc[warm.column("user_id").to_pylist()]
    classes = age_classes(users.age.fillna(-1).to_numpy().astype(np.int64))
    return pd.DataFrame(
        {
            "country": [name if isinstance(name, str) else None for name in users.country],
            "age_class": [AGE_CLASSES[c] if c >= 0 else None for c in classes],
        },
        dtype=object,
    )
