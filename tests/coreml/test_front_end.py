"""What a network is converted from: exported where that is as good, else traced, and said so."""

from __future__ import annotations

import logging
from collections import Counter

import numpy as np
import pytest
import torch
from format_kit import OTHER, SIZE, convert, network
from torch import nn

from mmpretrain_mobileone_ext.coreml import front_end as front_ends
from mmpretrain_mobileone_ext.coreml import load_program
from mmpretrain_mobileone_ext.coreml.convert import convert_and_save
from mmpretrain_mobileone_ext.coreml.formats import format_of
from mmpretrain_mobileone_ext.coreml.front_end import for_coremltools
from mmpretrain_mobileone_ext.coreml.program import quiet
from mmpretrain_mobileone_ext.errors import ExportError
from mmpretrain_mobileone_ext.export.network import feature_preprocessing, prepare_features
from mmpretrain_mobileone_ext.export.options import ExportOptions

TRACED = 'torch.jit.trace: '


class Backbone(nn.Module):
    """A convolution and what follows it; (N, 3, H, W) to one map."""

    def __init__(self, after):
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 1)
        with torch.no_grad():
            self.conv.weight.mul_(9)
        self.after = after

    def forward(self, x):
        return (self.after(self.conv(x)),)


class TanhGelu(nn.Module):
    def forward(self, x):
        return nn.functional.gelu(x, approximate='tanh')


class SumOfTwo(nn.Module):
    """A keyword that changes numbers by more than rounding."""

    def forward(self, x):
        return torch.add(x, x.relu(), alpha=3)


class Borders(nn.Module):
    """Parts are assigned to in place."""

    def forward(self, x):
        x = x.clone()
        for part in (slice(0, 2), slice(3, 5)):
            x[:, part, 1:4, 2:6] = part.start + 1.0
        return x


class ChunksInPlace(nn.Module):
    def forward(self, x):
        parts = torch.split(x + 0.0, 2, 1)
        return torch.cat([part.relu_() for part in parts], 1)


class ByTheNumbers(nn.Module):
    """What to do depends on the pixels, of which a trace knows nothing."""

    def forward(self, x):
        return x.relu() if x.sum() > -1e9 else x


def made(after, folder, **options):
    """The saved file of a backbone, read back, and its largest relative error."""
    torch.manual_seed(0)
    net = Backbone(after).eval()
    options = dict(outputs='features', input='tensor', **options)
    loaded = load_program(convert(net, folder / 'm.mlpackage', **options))
    pixels = torch.rand(2, 3, *SIZE)
    (found,) = loaded.predict_batch({'image': pixels}).values()
    with torch.no_grad():
        (wanted,) = net(pixels)
    return loaded.program, float((found - wanted).norm() / wanted.norm())


@pytest.mark.parametrize('suffix', ['.mlpackage', '.mlmodel'])
@pytest.mark.parametrize('sizes', [(), (OTHER,)])
def test_networks_are_exported(suffix, sizes, tmp_path):
    path = convert(network(), tmp_path / f'm{suffix}', extra_sizes=sizes)
    program = format_of(path).describe(path)
    assert program.metadata['front_end'] == 'torch.export'
    assert format_of(path).check_and_note(program, 'iOS16', 'CPU_ONLY') == ()
    names = {op.name for op in program.operations}
    assert {'stage0_act', 'stage1_0_act'} <= names
    assert not [name for name in names if name.startswith('input_')]


def test_a_package_holds_nothing_else(tmp_path):
    """coremltools would add a list of all operations, for debugging."""
    path = convert(network(), tmp_path / 'm.mlpackage')
    files = {file.name for file in path.rglob('*') if file.is_file()}
    assert files == {'Manifest.json', 'model.mlmodel', 'weight.bin'}


def test_a_keyword_that_coremltools_would_drop(tmp_path):
    program, error = made(TanhGelu(), tmp_path)
    said = program.metadata['front_end']
    assert said == f"{TRACED}coremltools does not read 'approximate' of an exported gelu"
    assert error < 1e-6
    notes = format_of(program.path).check_and_note(program, 'iOS16', 'CPU_ONLY')
    assert f'converted from {said}' in notes


def test_a_keyword_that_no_front_end_reads(tmp_path):
    """Refused, as traced networks are, rather than converted to another function."""
    with pytest.raises(ExportError, match='ADD does not support scale factor'):
        made(SumOfTwo(), tmp_path)


@pytest.mark.parametrize(('kind', 'bound'), [(TanhGelu, 1e-5), (SumOfTwo, 1e-2)])
def test_what_they_would_do(kind, bound, tmp_path, monkeypatch):
    """Without the check, another function is saved: the day this fails, the check can go."""
    monkeypatch.setattr(front_ends, '_check_keywords', lambda program: None)
    program, error = made(kind(), tmp_path)
    assert program.metadata['front_end'] == 'torch.export'
    assert error > bound


@pytest.mark.filterwarnings('ignore::torch.jit.TracerWarning')
@pytest.mark.parametrize('kind', [Borders, ChunksInPlace])
def test_parts_in_place_are_traced_for_fewer_operations(kind, tmp_path, monkeypatch):
    program, error = made(kind(), tmp_path)
    assert program.metadata['front_end'].startswith(f'{TRACED}what it does in place')
    assert error < 1e-6
    monkeypatch.setattr(front_ends, '_parts', lambda program: 0)
    (tmp_path / 'exported').mkdir()
    other, error = made(kind(), tmp_path / 'exported')
    assert other.metadata['front_end'] == 'torch.export'
    assert error < 1e-6
    few, many = (Counter(p.count_operations()).total() for p in (program, other))
    assert few < many


@pytest.mark.filterwarnings('ignore::torch.jit.TracerWarning')
def test_what_torch_cannot_export(tmp_path, caplog, capfd):
    with caplog.at_level(logging.ERROR):
        program, error = made(ByTheNumbers(), tmp_path)
    assert program.metadata['front_end'].startswith(f'{TRACED}torch.export cannot export')
    assert error < 1e-6
    assert [r for r in caplog.records if r.levelno >= logging.ERROR] == []
    assert capfd.readouterr() == ('', '')


def test_what_coremltools_cannot_do_with_an_export(tmp_path, monkeypatch, caplog):
    ct = quiet.coremltools()
    convert_any = ct.convert

    def refuse(program, **options):
        if isinstance(program, torch.export.ExportedProgram):
            logging.getLogger('coremltools').error("\n\nERROR - converting 'relu' op")
            raise NotImplementedError('no such operation')
        return convert_any(program, **options)

    monkeypatch.setattr(ct, 'convert', refuse)
    with caplog.at_level(logging.ERROR):
        program, error = made(nn.ReLU(), tmp_path)
    assert [r for r in caplog.records if r.levelno >= logging.ERROR] == []
    said = f'{TRACED}coremltools: NotImplementedError: no such operation'
    assert program.metadata['front_end'] == said
    assert error < 1e-6


def test_older_versions_of_torch(tmp_path, monkeypatch):
    monkeypatch.setattr(torch, '__version__', '2.6.1+cpu')
    program, error = made(nn.ReLU(), tmp_path)
    assert program.metadata['front_end'] == f'{TRACED}exports need torch 2.7 or later'
    assert error < 1e-6


def test_names_are_those_of_modules_and_occur_once():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.backbone = nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU())

        def forward(self, x):
            return self.backbone(self.backbone(x)) + x

    class Graph(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = Twice()

        def forward(self, x):
            return self.net(x)

    program = for_coremltools(Graph().eval(), [(1, 3, 4, 4)])
    names = [node.name for node in program.graph.nodes if node.op == 'call_function']
    assert names[:4] == ['0', '1', '0_1', '1_1']


def test_a_name_that_torch_gave_already_is_no_second_one():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.relu = nn.ReLU()

        def forward(self, x):
            return self.relu(x).view(1, -1).sigmoid()

    class Graph(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = Net()

        def forward(self, x):
            return self.net(x)

    program = for_coremltools(Graph().eval(), [(1, 3, 4, 4)])
    names = [node.name for node in program.graph.nodes if node.op == 'call_function']
    assert names == ['relu', 'view', 'sigmoid']


@pytest.mark.parametrize(
    ('after', 'maker'),
    [(nn.ReLU(), 'for_coremltools'), pytest.param(TanhGelu(), 'traced', marks=pytest.mark.slow)],
)
def test_a_network_that_is_converted_twice_is_exported_once(tmp_path, monkeypatch, after, maker):
    made, make = [], getattr(front_ends, maker)
    monkeypatch.setattr(front_ends, maker, lambda *a: made.append(make(*a)) or made[-1])
    torch.manual_seed(0)
    net = Backbone(after).eval()
    pre = feature_preprocessing(net, 3, SIZE, 'BGR')

    def saved(name, prepared, **options):
        asked = ExportOptions(tmp_path / name, outputs='features', input='tensor', **options)
        convert_and_save(prepared, pre, (), asked, asked.out)
        program = load_program(asked.out).program
        return program.metadata['front_end'], [(op.name, op.dtypes) for op in program.operations]

    prepared = prepare_features(net, pre)
    whole = saved('0.mlpackage', prepared, precision='fp32')
    half = saved('1.mlpackage', prepared, precision='fp16')
    assert len(made) == 1
    assert saved('2.mlpackage', prepared, precision='fp32') == whole != half
    assert saved('3.mlpackage', prepare_features(net, pre), precision='fp16') == half
    assert len(made) == 2
    saved('4.mlpackage', prepared, extra_sizes=(OTHER,))
    assert len(made) == 3


def test_a_network_for_one_size_is_refused_by_both(tmp_path):
    class Fixed(nn.Module):
        def forward(self, x):
            return x.sum((2, 3), keepdim=True) / (int(x.shape[2]) * int(x.shape[3]))

    with pytest.raises(ExportError, match='cannot export'):
        for_coremltools(Backbone(Fixed()).eval(), [(1, 3, *SIZE), (1, 3, *OTHER)])
    with pytest.raises(ExportError, match='fixes its input to'):
        made(Fixed(), tmp_path, extra_sizes=(OTHER,))
    assert np.prod(SIZE) != np.prod(OTHER)
