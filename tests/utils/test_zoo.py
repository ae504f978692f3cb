"""Our models in mmpretrain's hub: names, figures, weights, from a wheel."""

import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import randomize_norms
from mmengine.analysis import get_model_complexity_info
from mmpretrain import get_model, inference_model, list_models
from mmpretrain.apis.model import ModelHub

from mmpretrain_mobileone_ext.utils.config import PREFIX, register_models

ROOT = Path(__file__).resolve().parents[2]
NAMES = list_models(f'{PREFIX}*')
#: The paper's parameters and FLOPs in millions (tables 7 and 13); its FLOPs of S4 leave
#: squeeze-and-excitation out.
PAPER = {
    's0': (2.1, 275),
    's1': (4.8, 825),
    's2': (7.8, 1299),
    's3': (10.1, 1896),
    's4': (14.8, 2978),
}
MICRO = {'mu0': (0.57, 68), 'mu1': (0.98, 139), 'mu2': (1.3, 214)}


def metadata(name):
    return ModelHub.get(name).metadata


def in1k(variant):
    return f'{PREFIX}{variant}_8xb32_in1k'


def test_names():
    assert len(NAMES) == 11
    assert {in1k(v) for v in (*PAPER, *MICRO)} < set(NAMES)
    register_models()  # again changes nothing
    assert list_models(f'{PREFIX}*') == NAMES


def slow_if(name, *starts):
    variant = name[len(PREFIX) :] if name.startswith(PREFIX) else name
    marks = [pytest.mark.slow] if variant.startswith(starts) else []
    return pytest.param(name, marks=marks)


@pytest.mark.parametrize('name', [slow_if(n, 's1', 's2', 's3', 's4') for n in NAMES])
def test_figures_are_those_of_the_folded_network(name):
    shape = (3, 224, 224) if 'in1k' in name else (3, 32, 32) if 'digits' in name else (1, 28, 28)
    found = complexity(get_model(name), shape)
    known = metadata(name)
    assert (known.flops, known.parameters) == (found['flops'], found['params'])


@pytest.mark.parametrize('variant', [slow_if(v, 's4') for v in PAPER])
def test_figures_are_the_papers_rounded(variant):
    parameters, flops = PAPER[variant]
    known = metadata(in1k(variant))
    assert round(known.parameters / 1e6, 1) == parameters
    without_se = (
        known.flops
        if variant != 's4'
        else complexity(get_model(in1k('s4'), backbone=dict(se_cfg=None)))['flops']
    )
    assert round(without_se / 1e6) == flops


def complexity(model, shape=(3, 224, 224)):
    model.switch_to_deploy()
    return get_model_complexity_info(model, input_shape=shape, show_table=False, show_arch=False)


@pytest.mark.parametrize('variant', MICRO)
def test_micro_variants_are_within_3_percent_of_the_papers(variant):
    parameters, flops = MICRO[variant]
    known = metadata(in1k(variant))
    assert known.parameters / 1e6 == pytest.approx(parameters, rel=0.03)
    assert known.flops / 1e6 == pytest.approx(flops, rel=0.03)


@pytest.mark.parametrize('variant', PAPER)
def test_published_weights_are_those_of_an_equal_network(variant):
    ours = ModelHub.get(in1k(variant))
    theirs = ModelHub.get(f'mobileone-{variant}_8xb32_in1k')
    # Each stack has a server of its own; the name holds a part of the file's hash.
    assert ours.weights.rpartition('/')[2] == theirs.weights.rpartition('/')[2]
    assert ours.results[0].metrics == theirs.results[0].metrics


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory):
    """As OpenMMLab publishes them: of mmpretrain's own network."""
    model = get_model('mobileone-s0_8xb32_in1k')
    randomize_norms(model, seed=3)
    path = tmp_path_factory.mktemp('weights') / 's0.pth'
    torch.save(
        dict(
            state_dict=model.state_dict(),
            meta=dict(dataset_meta=dict(classes=[f'class {i}' for i in range(1000)])),
        ),
        path,
    )
    return path


def test_a_name_and_a_local_checkpoint_predict_as_mmpretrain(checkpoint):
    image = np.random.default_rng(0).integers(0, 256, (240, 260, 3)).astype(np.uint8)
    results = []
    for name in (in1k('s0'), 'mobileone-s0_8xb32_in1k'):
        model = get_model(name, pretrained=str(checkpoint))
        results.append(inference_model(model, image))
    np.testing.assert_allclose(*(r['pred_scores'] for r in results), rtol=1e-5, atol=1e-9)
    folded = get_model(in1k('s0'), pretrained=str(checkpoint))
    folded.switch_to_deploy()
    found = inference_model(folded, image)
    assert found['pred_class'] == results[0]['pred_class']
    np.testing.assert_allclose(
        found['pred_scores'], results[0]['pred_scores'], rtol=1e-3, atol=1e-7
    )


FROM_WHEEL = """
import sys
import mmpretrain_mobileone_ext as package
assert package.__file__.startswith(sys.prefix), package.__file__
from mmpretrain import get_model, list_models
assert len(list_models('*mobileone-ext*')) == {count}
model = get_model('mobileone-ext-s0_8xb32_in1k', pretrained={checkpoint!r})
model.switch_to_deploy()
assert model.head.num_classes == 1000
print('parameters', sum(p.numel() for p in model.parameters()))
"""


@pytest.mark.slow
def test_a_wheel_in_a_fresh_environment(checkpoint, tmp_path):
    run = dict(check=True, capture_output=True, text=True)
    subprocess.run(
        [
            sys.executable,
            '-m',
            'pip',
            'wheel',
            '-q',
            '--no-deps',
            '--no-build-isolation',
            '-w',
            str(tmp_path),
            str(ROOT),
        ],
        **run,
    )
    (wheel,) = tmp_path.glob('*.whl')
    venv = tmp_path / 'venv'
    subprocess.run([sys.executable, '-m', 'venv', str(venv)], **run)
    (site,) = venv.glob('lib/python*/site-packages')
    # What it depends on is taken from here; only the wheel is new.
    (site / 'base.pth').write_text(
        f'import site; site.addsitedir({sysconfig.get_path("purelib")!r})\n'
    )
    python = str(venv / 'bin/python')
    subprocess.run(
        [
            python,
            '-m',
            'pip',
            'install',
            '-q',
            '--no-deps',
            '--no-index',
            '--ignore-installed',
            str(wheel),
        ],
        **run,
    )
    script = tmp_path / 'use.py'
    script.write_text(FROM_WHEEL.format(count=len(NAMES), checkpoint=str(checkpoint)))
    done = subprocess.run([python, str(script)], **run, cwd=tmp_path)
    assert 'parameters 2078504' in done.stdout
