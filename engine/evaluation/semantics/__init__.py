"""Semantics: whether classes that mean alike lie close, by WordNet and by the text of their names."""
