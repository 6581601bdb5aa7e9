"""What X, y and the weights ARE: arrays in row blocks, chunks, streams and sparse matrices."""
