"""What the tools in ``tools/`` run, one module or folder each."""
