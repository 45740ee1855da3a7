"""Which positions of an order belong to whom, and orders built from others."""
