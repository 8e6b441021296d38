"""The mathematics of both engines: features, networks, losses, metrics. Imports no Spark, Airflow or MLflow."""
