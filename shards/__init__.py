"""Bytes on disk: sources, conversion, manifest, verification."""
