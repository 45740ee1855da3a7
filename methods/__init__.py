"""Embeddings to a loss: the method families, heads, collectives."""
