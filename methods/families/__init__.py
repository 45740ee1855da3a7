"""The three families, each as a Method: a head, its loss, and how it is seen to collapse."""
