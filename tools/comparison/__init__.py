"""Runs side by side, with each other and with what papers print."""
