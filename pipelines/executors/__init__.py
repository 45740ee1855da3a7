"""Encoded images and a plan to views: one file or folder an executor."""
