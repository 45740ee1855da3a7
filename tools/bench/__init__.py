"""Benchmarks: each measures a ratio against a peer, interleaved in one run."""
