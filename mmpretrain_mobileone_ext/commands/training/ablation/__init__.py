"""Train a grid of variants of one config and put them side by side."""

from .grid import Grid, Trial, grid_from
from .run import run_grid
from .table import TrialResult, VariantSummary, summarize

__all__ = ['Grid', 'Trial', 'TrialResult', 'VariantSummary', 'grid_from', 'run_grid', 'summarize']
