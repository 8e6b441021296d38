"""The cold-start engine's jobs: segments, features, training, evaluation."""
