"""What changes a checkpoint and writes another."""
