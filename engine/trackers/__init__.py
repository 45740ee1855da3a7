"""A run's figures at W&B and MLflow, beside its own files."""
