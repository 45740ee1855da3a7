"""What a run will need before it is started: speed, memory, traffic, hours and money, by printed formulas."""
