"""The reference runtime: a saved program, executed op by op on any OS."""
