"""Tables of papers, as printed."""
