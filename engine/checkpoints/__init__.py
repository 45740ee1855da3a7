"""Checkpoints that any world size and ZeRO stage reads."""
