"""All methods that answer a cold listener, one small module each; what they share is in interface.py."""

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
