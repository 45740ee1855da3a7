"""Endings of image files, for the few places that cannot look at the bytes."""

IMAGE_SUFFIXES = (
    ".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".jp2", ".j2k",
)  # fmt: skip
