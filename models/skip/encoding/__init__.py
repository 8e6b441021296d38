"""Model inputs: one-hot and numeric encodings of plays."""
