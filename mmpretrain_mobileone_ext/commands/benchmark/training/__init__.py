"""The benchmark behind ``tools/benchmark_training.py``."""
