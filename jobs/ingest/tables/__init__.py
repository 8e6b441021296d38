"""The source `tables`: a service's own data, mapped to the raw tables by Spark SQL."""
