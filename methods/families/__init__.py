"""The three families and their yardstick, each as a Method: a head, its loss, how it is seen to collapse."""
