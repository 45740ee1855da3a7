"""Passes over a whole data set: every sample once, whatever adds it up."""
