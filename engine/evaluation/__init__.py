"""Evaluation: a backbone beside the untrained one and the floors."""
