"""Draws what a backbone has learnt: PNGs for light and dark pages, and their page."""
