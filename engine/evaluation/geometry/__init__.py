"""Geometry: how representations lie on the sphere, in figures that need no classifier."""
