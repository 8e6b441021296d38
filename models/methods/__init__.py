"""All methods that answer a cold listener, one small module each; what they share is in interface.py."""

from models.methods.deezer import FullPers, SemiPers
from models.methods.interface import Method, Needs, Predict, Warm, lists
from models.methods.simple import Popularity, RegistrationDayStreams

__all__ = [
    "FullPers", "Method", "Needs", "Popularity", "Predict", "RegistrationDayStreams", "SemiPers", "Warm", "lists",
]  # fmt: skip
