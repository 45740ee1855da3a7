"""The compiled kernel as a decoder of FFCV's pipeline, over mapped betons."""
