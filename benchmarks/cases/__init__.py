"""What is timed: each module has the cases of one kind, and the registry finds them by name."""
