"""What people run: convert, train, evaluate, report, bench."""
