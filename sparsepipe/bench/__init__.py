"""Time and memory of sparse convolution, several engines side by side."""
