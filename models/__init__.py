"""The mathematics: kernels, nets, losses, metrics. No Spark, no Airflow, no MLflow."""
