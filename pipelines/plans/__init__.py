"""What is drawn for every view, and the draws: distributions, presets' parts, the planner."""
