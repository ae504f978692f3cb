"""A third format: one class, and nothing else knows of it."""

import copy
import json

import pytest
import torch
from export_kit import build, files, oracle, photos, relative, rgb, save, write_config
from mmengine.runner import CheckpointLoader

from mmpretrain_mobileone_ext.coreml.classifier import CoreMLClassifier
from mmpretrain_mobileone_ext.coreml.convert import INPUT, LABEL, PROBABILITIES
from mmpretrain_mobileone_ext.coreml.formats import FORMATS, Format, format_of, register
from mmpretrain_mobileone_ext.coreml.program.graph import Feature, Operation, Program
from mmpretrain_mobileone_ext.coreml.runtime.loaded import LoadedProgram
from mmpretrain_mobileone_ext.errors import ExportError, ParityError
from mmpretrain_mobileone_ext.export.options import ExportOptions
from mmpretrain_mobileone_ext.exporter import run_export
from mmpretrain_mobileone_ext.report.forms import Feed, program_forms

ABOUT = 'about.json'


def saved(path):
    """What a toy file holds: the network, and what it says of itself."""
    extra = {ABOUT: ''}
    network = torch.jit.load(str(path), _extra_files=extra)
    return network, json.loads(extra[ABOUT])


class ToyProgram(LoadedProgram):
    def predict(self, inputs):
        raise NotImplementedError

    def _run_whole(self, inputs):
        network, _ = saved(self.program.path)
        with torch.no_grad():
            return {PROBABILITIES: network(inputs[INPUT])}


class Toy(Format):
    """A TorchScript file with its metadata beside the network."""

    suffix = '.toy'
    name = 'toy'
    spoil = 0.0

    def require(self):
        """Torch is there."""

    def convert(self, network, preprocessing, labels, options, path, keep_fp32=frozenset()):
        graph = copy.deepcopy(network.graph(preprocessing.mean))
        with torch.no_grad():
            next(graph.parameters())[0] += self.spoil
        shape = preprocessing.shape
        about = dict(labels=labels, shape=shape, layout=preprocessing.layout, metadata={})
        traced = torch.jit.trace(graph, torch.zeros(shape))
        torch.jit.save(traced, str(path), _extra_files={ABOUT: json.dumps(about)})

    def load(self, path, **options):
        return ToyProgram(self.describe(path))

    def describe(self, path):
        _, about = saved(path)
        pixels = Feature(INPUT, 'image', tuple(about['shape']), 'uint8', about['layout'])
        outputs = (Feature(LABEL, 'string'), Feature(PROBABILITIES, 'dictionary'))
        conv = Operation('stem', 'conv', {}, ('x',), ('fp32',))
        return Program(
            path,
            self.name,
            (pixels,),
            outputs,
            (conv,),
            tuple(about['labels']),
            LABEL,
            PROBABILITIES,
            about['metadata'],
            1,
        )

    def system(self, program):
        return 'iOS99'

    def write_metadata(self, path, user, standard, described, outputs):
        network, about = saved(path)
        plain = {k: v if isinstance(v, str) else json.dumps(v) for k, v in user.items()}
        about['metadata'] = {**plain, **standard}
        torch.jit.save(network, str(path), _extra_files={ABOUT: json.dumps(about)})


@pytest.fixture
def toy(monkeypatch):
    """Registered for one test."""
    schemes = CheckpointLoader._schemes.copy()
    monkeypatch.setattr(CheckpointLoader, '_schemes', schemes)
    monkeypatch.setitem(FORMATS, Toy.suffix, None)
    register(Toy())
    return FORMATS[Toy.suffix]


@pytest.fixture
def case(tmp_path):
    model = build()
    data = photos(tmp_path / 'data', 2)
    config = write_config(tmp_path / 'c.py', data)
    return model, config, save(model, tmp_path / 'c.pth'), [rgb(p) for p in files(data)]


def test_it_is_exported_verified_and_reported(toy, case, tmp_path):
    model, config, checkpoint, images = case
    out = tmp_path / 'm.toy'
    result = run_export(config, checkpoint, ExportOptions(out, report=tmp_path / 'page'))
    assert result.verification.parity.relative < 1e-5
    rows = dict(result.rows())
    assert rows['format'] == 'toy, iOS99 or later'
    assert rows['same top-1'].startswith('100')
    assert rows['operations'] == '1, of them 1 conv'
    pixels = torch.stack([torch.from_numpy(i).permute(2, 0, 1) for i in images])
    found = toy.load(out).predict_batch({INPUT: pixels.float()})
    assert relative(found[PROBABILITIES], oracle(model, images)) < 1e-5
    assert json.loads(toy.describe(out).metadata['top1']) == dict(
        torch=result.verification.top1_reference, coreml=result.verification.top1_candidate
    )
    forms = json.loads((tmp_path / 'page/report.json').read_text())['forms']
    (form,) = (f for f in forms if f['file'] == 'm.toy')
    assert form['agreement'] == 100
    assert form['size_bytes'] == result.size_bytes == out.stat().st_size


def test_a_file_that_predicts_otherwise_gets_no_name(toy, case, tmp_path, monkeypatch):
    monkeypatch.setattr(Toy, 'spoil', 0.5)
    with pytest.raises(ParityError, match='relative error'):
        run_export(case[1], case[2], ExportOptions(tmp_path / 'm.toy'))
    assert not (tmp_path / 'm.toy').exists()


def test_it_stands_in_for_a_checkpoint(toy, case, tmp_path):
    model, config, checkpoint, images = case
    out = run_export(config, checkpoint, ExportOptions(tmp_path / 'm.toy')).path
    loaded = CheckpointLoader.load_checkpoint(str(out))
    given = CoreMLClassifier(data_preprocessor=dict(to_rgb=True))
    given.load_state_dict(loaded['state_dict'])
    batch = torch.stack([torch.from_numpy(i[..., ::-1].copy()).permute(2, 0, 1) for i in images])
    found = torch.stack([s.pred_score for s in given.test_step({'inputs': batch})])
    assert relative(found, oracle(model, images)) < 1e-5
    feed = Feed(flips=True)
    (form,) = program_forms(out, feed)
    assert torch.equal(form.predict(batch), found)


@pytest.mark.parametrize(
    ('options', 'words'),
    [
        (dict(compress='int8'), r'a \.toy stores its weights as they are'),
        (dict(compress='auto'), r'a \.toy stores its weights as they are'),
        (dict(precision='auto'), r'm\.toy: precision auto'),
    ],
)
def test_what_it_cannot_hold_is_refused(toy, tmp_path, options, words):
    with pytest.raises(ExportError, match=words):
        ExportOptions(tmp_path / 'm.toy', **options)


def test_formats_are_told_by_their_suffix(toy, tmp_path):
    assert format_of(tmp_path / 'a.toy') is toy
    assert format_of('a.mlmodel').name == 'neuralnetwork'
    assert format_of('a.mlpackage/').name == 'mlprogram'
    with pytest.raises(ExportError, match=r'allowed: \.mlpackage .*, \.mlmodel .*, \.toy \(toy\)'):
        ExportOptions(tmp_path / 'm.onnx')
