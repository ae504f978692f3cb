"""A saved program against its network at every shape it declares."""

from __future__ import annotations

import pytest
import torch
from format_kit import OTHER, load, network, oracle, perturbed

from mmpretrain_mobileone_ext.export.verify import compare_at


@pytest.mark.parametrize('suffix', ['.mlpackage', '.mlmodel'])
@pytest.mark.parametrize('outputs', ['class', 'features'])
def test_every_declared_shape(tmp_path, suffix, outputs):
    net = network()
    loaded = load(
        net,
        tmp_path / f'm{suffix}',
        input='tensor',
        outputs=outputs,
        extra_sizes=(OTHER,),
        batch_sizes=(1, 4, 20),
    )
    shapes = loaded.program.inputs[0].shapes
    assert len(shapes) == 6
    for shape in shapes:
        seen = []

        def reference(batch, model=net, seen=seen):
            seen.append(tuple(batch.shape))
            assert batch.dtype == torch.uint8
            return oracle(model, batch, outputs == 'features')

        parity = compare_at(loaded, reference, shape, flips=True)
        assert parity.relative < 1e-5
        assert (parity.top1_agreement is None) == (outputs == 'features')
        (given,) = seen
        assert given[1:] == shape[1:]
        assert given[0] % shape[0] == 0
        assert parity.num_samples == given[0] >= 6
    wrong = perturbed(net)
    parity = compare_at(loaded, lambda b: reference(b, wrong), shapes[-1], flips=True)
    assert parity.relative > 1e-4
    parity = compare_at(loaded, reference, shapes[0], flips=False)
    assert parity.relative > 1e-3


def test_declared_batches_are_run_as_one(tmp_path, monkeypatch):
    loaded = load(network(), tmp_path / 'm.mlmodel', input='tensor', batch_sizes=(1, 4))
    runs, run = [], loaded._run

    def watch(inputs, *args, **kwargs):
        if not inputs['image'].is_meta:  # else it is only counted
            runs.append(tuple(inputs['image'].shape))
        return run(inputs, *args, **kwargs)

    monkeypatch.setattr(loaded, '_run', watch)
    compare_at(loaded, lambda b: oracle(network(), b), (4, 3, 32, 32), True)
    assert runs == [(4, 3, 32, 32)] * 2
