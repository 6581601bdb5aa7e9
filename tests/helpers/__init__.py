"""What several test files share: array libraries, reference answers, known functions, counters."""
