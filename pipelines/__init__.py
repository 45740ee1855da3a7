"""Bytes to views: sample order, view plan, executors, loader."""
