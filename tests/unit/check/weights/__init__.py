"""The comparison of parameters and tensors, by their names."""
