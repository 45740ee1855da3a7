"""The files that hold many images: how each is written, walked and read."""
