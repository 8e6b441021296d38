"""Matrix factorisation on Spark: implicit ALS, randomised SVD, PMI and k-means."""
