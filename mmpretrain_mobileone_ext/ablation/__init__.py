"""Train a grid of variants of one config and put them side by side."""
from .grid import Grid, Trial, grid_from
from .results import TrialResult, VariantSummary, summarize
from .run import run_grid

__all__ = [
    'Grid', 'Trial', 'TrialResult', 'VariantSummary', 'grid_from',
    'run_grid', 'summarize'
]
