"""Checkpoints: read as untrusted data, written whole, and said where from."""
