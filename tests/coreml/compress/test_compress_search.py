"""``--compress auto``: the search, over files that cost nothing to make.

The tests with real files and real accuracy are in test_compress_digits.py.
"""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from compress_kit import save_small, verified

from mmpretrain_mobileone_ext.coreml.compress import trial as compress_trial
from mmpretrain_mobileone_ext.coreml.compress.apply import MLPACKAGE
from mmpretrain_mobileone_ext.coreml.compress.kmeans import Palettes
from mmpretrain_mobileone_ext.coreml.compress.scheme import fixed_scheme
from mmpretrain_mobileone_ext.coreml.compress.search import Choice, Choices, repair, search
from mmpretrain_mobileone_ext.coreml.compress.storage import DENSE, INT8, Palette
from mmpretrain_mobileone_ext.coreml.compress.weights import find_weights, output_error
from mmpretrain_mobileone_ext.coreml.program.read import read_program
from mmpretrain_mobileone_ext.errors import ExportError
from mmpretrain_mobileone_ext.utils.files import tree_bytes

LABELS = torch.arange(1000) % 10
EVALUATIONS = 8 + 6 + 12 + 16 + 8  # fixed, layers, bisection, steps, repairs


class World:
    """Files that are a plan in JSON, with scores by a known law.

    The share of wrong answers is the sum over layers of a hidden gain times the layer's error, plus
    noise by the plan.
    """

    def __init__(self, source, seed, noise=0.0):
        self.source, self.noise = source, noise
        self.weights = {w.name: w for w in find_weights(read_program(source))}
        rng = np.random.default_rng(seed)
        self.gains = dict(zip(self.weights, rng.uniform(0.02, 2, 6)))
        self.palettes, self.made = Palettes(), []

    def apply(self, source, plan, out, palettes):
        size = tree_bytes(self.source) + sum(
            storage.size(self.weights[name].values, 'iOS16')
            - DENSE.size(self.weights[name].values, 'iOS16')
            for name, storage in plan.items()
        )
        text = json.dumps({k: s.name for k, s in sorted(plan.items())})
        out.mkdir()
        (out / 'file').write_text(text.ljust(size))
        self.made.append(text)
        return out

    def wrong(self, plan):
        if not plan:
            return 0.0
        total = sum(
            self.gains[name]
            * output_error(
                w.values, fixed_scheme(plan[name]).approximate(w.values, 'iOS16', self.palettes)
            )
            for name, w in self.weights.items()
            if name in plan
        )
        rng = np.random.default_rng(len(json.dumps(plan)))
        return min(0.9, total * (1 + self.noise * rng.normal()))

    def evaluate(self, path):
        plan = {}
        if path != self.source:
            plan = json.loads((path / 'file').read_text())
        return self.scores(self.wrong(plan))

    @staticmethod
    def scores(wrong, labels=LABELS):
        exact = torch.nn.functional.one_hot(LABELS, 10).double()
        count = round(max(0.0, wrong) * len(LABELS))
        found = exact.clone()
        found[:count] = exact[:count].roll(1, 1)
        found = found + wrong * 1e-3
        return verified(exact, found, labels)


@pytest.fixture(scope='module')
def source(tmp_path_factory):
    return save_small(tmp_path_factory.mktemp('search'))


@pytest.fixture
def run(source, tmp_path):
    def run(seed=0, budget=0.5, noise=0.0, evaluate=None, baseline=None, **budgets):
        world = World(source, seed, noise)
        folder = tmp_path / f'{len(list(tmp_path.iterdir()))}'
        folder.mkdir()
        world.folder = folder
        found = search(
            source,
            folder,
            evaluate or world.evaluate,
            baseline or world.evaluate(source),
            budget,
            'iOS16',
            store=replace(MLPACKAGE, write=world.apply),
            **budgets,
        )
        (best,) = (c for c in found if c.path)
        world.result = SimpleNamespace(candidates=found, best=best)
        return world

    return run


@pytest.mark.parametrize('noise', [0.0, 0.8])
@pytest.mark.parametrize('budget', [0.0, 0.5, 3.0, 50.0])
@pytest.mark.parametrize('seed', range(3))
def test_promises(run, seed, budget, noise):
    world = run(seed, budget, noise)
    result = world.result
    fixed = [c for c in result.candidates if c.kind == 'fixed']
    assert [c.scheme for c in fixed][:3] == ['int8', 'palettize8', 'palettize6']
    assert len(fixed) == 7
    fitting = [c.size_bytes for c in fixed if c.drop_points <= budget]
    assert result.best.drop_points <= budget
    assert all(result.best.size_bytes <= size for size in fitting)
    if fitting and budget:
        assert result.best.size_bytes < min(fitting)
    assert result.best.size_bytes == tree_bytes(result.best.path)
    assert len(world.made) == len(result.candidates) - 1 <= EVALUATIONS
    assert len(set(world.made)) == len(world.made)
    left = list(world.folder.iterdir())
    assert left == ([] if result.best.kind == 'none' else [result.best.path])
    assert [c for c in result.candidates if c.path] == [result.best]


def test_near_the_best_plan_there_is(run):
    """Against brute force over the forms that the search considers."""
    world = run(seed=1, budget=2.0)
    names = ['int8', 'palettize8', 'palettize6', 'palettize4', 'palettize2', 'palettize1']
    base = tree_bytes(world.source)
    # Size and damage add up over layers: a knapsack, by damage in 1/10000.
    best = {0: 0}
    for name, weight in world.weights.items():
        options = []
        for storage in (DENSE, *map(fixed_scheme, names)):
            damage = 0.0 if storage == DENSE else world.wrong({name: storage.name})
            saved = DENSE.size(weight.values, 'iOS16') - storage.size(weight.values, 'iOS16')
            options.append((int(np.ceil(damage * 1e4)), saved))
        best = {
            d + cost: max(
                s + saved
                for d2, s in best.items()
                for cost2, saved in options
                if d2 + cost2 == d + cost
            )
            for d in best
            for cost, _ in options
            if d + cost <= 200
        }
    optimum = base - max(best.values())
    saved = base - world.result.best.size_bytes
    assert saved >= 0.97 * (base - optimum)


def test_bisection_alone_comes_close(run):
    full = run(seed=1, budget=2.0).result
    result = run(seed=1, budget=2.0, max_steps=0, max_repairs=0).result
    assert result.best.kind == 'mixed'
    mixed = [c for c in result.candidates if c.kind == 'mixed']
    assert 2 <= len(mixed) <= 6
    base = result.candidates[0].size_bytes
    assert base - result.best.size_bytes >= 0.9 * (base - full.best.size_bytes)


class Ledger:
    """Stands in for a trial: fits as soon as ``a`` has 8 bits."""

    def __init__(self, *tried):
        self.budget = 1.0
        self.best = self.candidate({}, 1000, 0.0)
        self.candidates = [self.best, *tried]

    @staticmethod
    def candidate(plan, size, drop):
        return compress_trial.Candidate(
            'words', 'mixed', size, None, 1.0, drop, 0.0, drop <= 1.0, plan, None
        )

    def score(self, plan, kind, words=''):
        fits = plan.get('a') == INT8
        found = self.candidate(plan, 700, 0.5 if fits else 1.5)
        self.candidates.append(found)
        return found


def test_repairs_start_at_the_smallest_near_miss():
    def choices(*figures):
        found = [Choice(*figure) for figure in figures]
        return Choices({c.storage: c for c in found}, tuple(found))

    two = {
        'a': choices((DENSE, 400, 0.0), (INT8, 200, 0.1), (Palette(4), 100, 0.5)),
        'b': choices((DENSE, 400, 0.0), (INT8, 200, 0.1)),
    }
    near = Ledger.candidate({'a': Palette(4), 'b': INT8}, 600, 1.8)
    far = Ledger.candidate({'a': Palette(4)}, 500, 9.0)
    nearer = Ledger.candidate({'a': Palette(4)}, 650, 1.1)
    gains, count = {'a': 1.0, 'b': 1.0}, []
    ledger = Ledger(nearer, near, far)
    repair(ledger, two, gains, count.append, 8)
    assert ledger.candidates[-1].fits
    assert ledger.candidates[-1].plan == {'a': INT8, 'b': INT8}
    assert count == [1]
    ledger = Ledger(far)
    repair(ledger, two, gains, count.append, 8)
    assert len(ledger.candidates) == 2


def test_layers_alone(run):
    world = run(seed=2)
    layers = [c for c in world.result.candidates if c.kind == 'layer']
    assert len(layers) >= 4
    damage = {}
    for candidate in layers:
        ((layer, storage),) = candidate.plan.items()
        damage[layer] = world.wrong({layer: storage.name})
    assert set(damage) <= set(world.weights)
    worst = max(layers, key=lambda c: c.relative)
    assert list(worst.plan) == [max(damage, key=damage.get)]


def test_candidates_say_what_they_are(run):
    result = run(seed=0).result
    first = result.candidates[0]
    assert (first.kind, first.scheme, first.drop_points) == ('none', 'none', 0)
    for candidate in result.candidates[1:]:
        assert candidate.plan
        assert candidate.top1 == pytest.approx(1 - candidate.drop_points / 100)
        assert candidate.fits == (candidate.drop_points <= 0.5)
    mixed = next(c for c in result.candidates if c.kind == 'mixed')
    assert sum(int(part.split(' x ')[0]) for part in mixed.scheme.split(', ')) == len(mixed.plan)


def test_repeatable(run):
    a, b = run(seed=3, noise=0.5).result, run(seed=3, noise=0.5).result
    assert [(c.scheme, c.size_bytes, c.drop_points) for c in a.candidates] == [
        (c.scheme, c.size_bytes, c.drop_points) for c in b.candidates
    ]


def test_without_labels_agreement_counts(run):
    def evaluate(path):
        world = World(run.source, 0)
        plan = {} if path == run.source else json.loads((path / 'file').read_text())
        return world.scores(world.wrong(plan), None)

    run.source = None
    with_labels = run(seed=0)
    run.source = with_labels.source
    without = run(seed=0, evaluate=evaluate, baseline=World.scores(0.0, None)).result
    assert without.best.top1 is None
    assert without.best.size_bytes == with_labels.result.best.size_bytes


def test_nothing_fits(run):
    def evaluate(path):
        return World.scores(0.5)

    world = run(evaluate=evaluate, baseline=World.scores(0.0))
    assert world.result.best.kind == 'none'
    assert world.result.best.path == world.source
    assert world.source.is_dir()
    assert list(world.folder.iterdir()) == []


def test_nan_never_fits(run):
    def evaluate(path):
        scores = torch.full((1000, 10), float('nan'))
        return verified(torch.rand(1000, 10), scores, LABELS)

    world = run(budget=100.0, evaluate=evaluate, baseline=World.scores(0.0))
    assert world.result.best.kind == 'none'


def test_few_probes_bound_the_search(run):
    result = run(seed=0, max_probes=2).result
    assert sum(c.kind == 'layer' for c in result.candidates) == 2
    fitting = [c.size_bytes for c in result.candidates if c.kind == 'fixed' and c.fits]
    assert result.best.size_bytes < min(fitting)


def test_refused(run, source, tmp_path):
    features = verified(torch.rand(4, 10), torch.rand(4, 10))
    features = type(features)(
        **{**features.__dict__, 'parity': type(features.parity)(0.0, 0.0, 1.0, None, 4)}
    )
    with pytest.raises(ExportError, match='outputs are no class scores'):
        run(baseline=features)
    arguments = (tmp_path, lambda path: None, World.scores(0.0), 0.5)
    with pytest.raises(ExportError, match="compress 'auto' needs a deploy"):
        search(source, *arguments, 'iOS15')
    with pytest.raises(ExportError, match='is for iOS16, not for iOS18'):
        search(source, *arguments, 'iOS18')
