"""From ids to batches that wait ready: reading, substitutes, prefetching, positions."""
