"""Hooks that change how a run trains."""
