"""Recommendation methods for cold listeners, one class file each; the common interface is `Method` in base.py.

This package imports no PyTorch, because the service imports it. registry.py, which builds every method by name, does.
"""

from models.cold_start.methods.base import Method, Needs, Predict, WarmListeners, recommend_lists
from models.cold_start.methods.baselines import Popularity, RegistrationDayStreams
from models.cold_start.methods.semi_personalised import FullPers, SemiPers

__all__ = [
    "FullPers",
    "Method",
    "Needs",
    "Popularity",
    "Predict",
    "RegistrationDayStreams",
    "SemiPers",
    "WarmListeners",
    "recommend_lists",
]
