"""What `agd` is timed beside on a device: loops written by hand, and other libraries."""
