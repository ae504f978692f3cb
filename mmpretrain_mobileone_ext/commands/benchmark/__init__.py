"""Benchmarks: ``runtime`` of the Core ML interpreter, ``training`` of a step in every form.

``fake_data`` makes the networks and images that both measure.
"""
