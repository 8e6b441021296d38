"""Matrix factorisation on Spark: implicit ALS and randomised SVD over blocks of rows; PMI counts and k-means."""

__version__ = "0.1.0"
