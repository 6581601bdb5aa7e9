"""What is printed: tables of the cases and of growth, and a description of the machine."""
