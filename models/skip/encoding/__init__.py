"""Encodings of plays as model inputs: one-hot fields and scaled numeric features."""
