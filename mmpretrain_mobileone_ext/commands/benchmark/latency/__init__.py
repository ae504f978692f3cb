"""How wrong the estimate of latency on the Neural Engine is, network by network."""
