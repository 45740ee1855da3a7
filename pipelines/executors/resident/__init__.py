"""A data set decoded once into one device's memory, and views made of it by batched tensor operations."""
