"""Clusters as data: a YAML file each, every figure with its source."""
