"""What may be loaded into a network: weights that fit, or a file in its place."""
