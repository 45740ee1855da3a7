"""The DALI executor, on the CPU or on a GPU; the only package that imports nvidia.dali."""
