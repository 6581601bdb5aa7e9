"""What a case is, and how its calls are timed: clocks, and a process of its own for each case."""
