"""The data of the cases, and losses, gradients and gaps by plain NumPy that answers are checked with."""
