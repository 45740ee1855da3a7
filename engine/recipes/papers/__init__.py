"""The tables of the papers: which recipe and which overrides make each of their rows."""
