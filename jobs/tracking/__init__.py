"""MLflow: runs, metrics, models and aliases."""
