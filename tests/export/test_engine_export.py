"""A file that fp16 passes and the Neural Engine does not, and what the exporter does about it."""

from __future__ import annotations

import json

import pytest
from export_kit import CLASSES, build
from precision_kit import SIZE, Case, overflowing

from mmpretrain_mobileone_ext.coreml import export_coreml, load_program, read_program
from mmpretrain_mobileone_ext.coreml.classifier import CoreMLClassifier
from mmpretrain_mobileone_ext.coreml.formats import FORMATS
from mmpretrain_mobileone_ext.errors import ExportError, ParityError, ProgramError
from mmpretrain_mobileone_ext.export.options import ExportOptions
from mmpretrain_mobileone_ext.export.precision import choose_precision
from mmpretrain_mobileone_ext.export.verify import tolerance_of

FACTOR = 2**11  # activations between 32 768 and 65 504
LAYER = 'stage1_0_cast_fp16'


@pytest.fixture(scope='module')
def case(tmp_path_factory):
    return Case(overflowing(FACTOR), tmp_path_factory.mktemp('case'), arithmetic='ane')


@pytest.fixture(scope='module')
def plain(case):
    return case.convert(frozenset())


def test_activations_reach_40000(case, plain):
    loaded = load_program(plain, record_range=True)
    loaded.predict_batch(case.inputs)
    assert 40_000 < loaded.ranges[LAYER] < 65_504
    assert max(loaded.ranges.values()) == loaded.ranges[LAYER]


def test_fp16_passes(plain, tmp_path):
    half = Case(overflowing(FACTOR), tmp_path).evaluate(plain)
    half.require()
    assert half.overflows == {}
    assert half.arithmetic == 'fp16'


def test_the_engine_fails_and_the_layer_is_named(case, plain):
    found = case.evaluate(plain)
    assert set(found.overflows) == {LAYER}
    with pytest.raises(ParityError, match=rf"the Neural Engine's range in {LAYER} \(\d+\); try"):
        found.require()


def test_auto_keeps_what_the_engine_cannot_hold(case, plain):
    tolerance = tolerance_of('fp16')
    choice = choose_precision(case.convert, case.evaluate, tolerance, case.inputs, arithmetic='ane')
    # What reads the layer holds 40 000 in fp16: only the sum itself is kept.
    assert [(op.name, op.type) for op in choice.kept] == [('stage1_0', 'conv')]
    assert "the Neural Engine's sums end at 32768" in choice.kept[0].why
    choice.verification.require()
    assert choice.verification.overflows == {}
    assert case.evaluate(plain).failure


@pytest.fixture(scope='module')
def exported(tmp_path_factory):
    out = tmp_path_factory.mktemp('exported') / 'model.mlpackage'
    export(out, precision='auto', verify_arithmetic='ane')
    return out


def export(out, **options):
    export_coreml(overflowing(FACTOR), out=out, image_size=SIZE, classes=CLASSES, **options)


def test_an_export_says_how_it_was_verified(exported):
    program = read_program(exported)
    parity = json.loads(program.metadata['parity'])
    assert (parity['arithmetic'], parity['chip']) == ('ane', 'A14')
    assert 'stage1_0' in program.metadata['in_fp32']


@pytest.mark.parametrize(
    ('name', 'precision', 'arithmetic'),
    [
        ('m.mlpackage', 'fp32', 'fp32'),
        ('m.mlpackage', 'fp16', 'fp16'),
        ('m.mlmodel', 'fp16', 'fp32'),
    ],
)
def test_other_exports_say_it_too(tmp_path, name, precision, arithmetic):
    """Of a .mlmodel, which declares no types, nothing is rounded."""
    out = tmp_path / name
    options = dict(precision=precision, verify_data='none')
    export_coreml(build(), out=out, image_size=32, classes=CLASSES, **options)
    parity = json.loads(read_program(out).metadata['parity'])
    assert parity['arithmetic'] == arithmetic
    assert 'chip' not in parity


@pytest.mark.slow
def test_an_export_in_fp16_is_refused(tmp_path):
    out = tmp_path / 'model.mlpackage'
    export(out)
    with pytest.raises(ParityError, match='Neural Engine'):
        export(out, verify_arithmetic='ane', force=True)


def test_where_it_is_not_available(tmp_path):
    with pytest.raises(ExportError, match='nothing of a file with precision fp32'):
        ExportOptions(tmp_path / 'm.mlpackage', verify_arithmetic='ane', precision='fp32')
    with pytest.raises(ExportError, match=r'not for \.aimodel files'):
        ExportOptions(tmp_path / 'm.aimodel', verify_arithmetic='ane')
    with pytest.raises(ExportError, match="'mps'; allowed: fp16, ane"):
        ExportOptions(tmp_path / 'm.mlpackage', verify_arithmetic='mps')
    with pytest.raises(ProgramError, match=r"'ane' is not available for an \.aimodel"):
        FORMATS['.aimodel'].load(tmp_path / 'm.aimodel', arithmetic='ane')


def test_a_classifier_takes_it(case, plain):
    pixels = case.inputs['image']
    scores = {
        a: CoreMLClassifier(str(plain), arithmetic=a)(pixels) for a in ('fp32', 'fp16', 'ane')
    }
    far = {a: float((s - scores['fp32']).abs().max()) for a, s in scores.items()}
    assert far['fp16'] < 0.01 < far['ane']
    newer = CoreMLClassifier(str(plain), arithmetic='ane', chip='M5').program
    assert newer.predict_batch(case.inputs)['classLabel_probs'].isfinite().all()
    with pytest.raises(ProgramError, match='chip'):
        CoreMLClassifier(str(plain), arithmetic='ane', chip='A9')


def test_a_network_within_the_range_is_untouched(tmp_path):
    case = Case(build(), tmp_path, arithmetic='ane')
    choice = choose_precision(
        case.convert, case.evaluate, tolerance_of('fp16'), case.inputs, arithmetic='ane'
    )
    assert choice.kept == ()
