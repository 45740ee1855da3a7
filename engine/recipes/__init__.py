"""Recipes: one YAML file a training run that the project stands behind."""
