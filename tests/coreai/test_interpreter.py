"""Apple's interpreter as another process: right answers, and one line for damage."""

import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from coreai_kit import DAMAGES, damaged, needs_core_ai, rehashed
from export_kit import build

from mmpretrain_mobileone_ext.coreai import interpreter, worker
from mmpretrain_mobileone_ext.coreai.interpreter import PROGRAM, InterpretedAsset
from mmpretrain_mobileone_ext.coreml.formats import format_of
from mmpretrain_mobileone_ext.errors import ProgramError
from mmpretrain_mobileone_ext.export.options import ExportOptions
from mmpretrain_mobileone_ext.exporter import run_export

pytestmark = needs_core_ai


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    out = tmp_path_factory.mktemp('whole') / 'm.aimodel'
    options = dict(classes=['ant', 'bee', 'cat'], image_size=[32], verify_data='none')
    run_export(build(), None, ExportOptions(out, **options))
    return out


@pytest.fixture
def copied(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / 'm.aimodel')


def pixels(count=1):
    generator = torch.Generator().manual_seed(0)
    return 255 * torch.rand(count, 3, 32, 32, generator=generator)


def test_samples_are_independent(whole):
    loaded, images = InterpretedAsset(whole), pixels(3)
    together = loaded.predict_batch({'image': images})
    for i in range(3):
        alone = loaded.predict({'image': images[i : i + 1].numpy()})
        for name, value in alone.items():
            np.testing.assert_array_equal(value[0], together[name][i].numpy())


@pytest.mark.parametrize('shape', [(1, 3, 16, 16), (1, 1, 32, 32), (2, 3, 32, 32)])
def test_images_that_do_not_fit_are_refused(whole, shape):
    with pytest.raises(ProgramError, match='the model takes exactly'):
        InterpretedAsset(whole).predict({'image': np.zeros(shape, np.float32)})


@pytest.mark.parametrize('name', DAMAGES)
def test_damage_is_found_before_the_interpreter_runs(copied, name, monkeypatch):
    monkeypatch.setattr(interpreter, 'ChildProcess', None)
    DAMAGES[name](copied)
    with pytest.raises(ProgramError) as caught:
        format_of(copied).load(copied)
    assert str(copied) in str(caught.value)
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize(
    'seeds',
    [
        pytest.param(range(6), id='some'),
        pytest.param(range(6, 114), id='many', marks=pytest.mark.slow),
    ],
)
def test_a_hostile_program_ends_nobody_but_its_interpreter(copied, seeds):
    program, refused = (copied / PROGRAM).read_bytes(), []
    for seed in seeds:
        rehashed(copied, damaged(program, seed))
        try:
            found = format_of(copied).load(copied).predict_batch({'image': pixels()})
            assert set(found) == {'classLabel_probs'}
        except ProgramError as error:
            refused.append(str(error))
    assert len(refused) > len(seeds) / 2
    assert not any('\n' in line for line in refused)


def test_an_interpreter_that_hangs_is_ended(copied, monkeypatch):
    monkeypatch.setattr(interpreter, '_TO_LOAD', 0.0)
    monkeypatch.setattr(interpreter, '_A_MIB', 0.0)
    with pytest.raises(ProgramError, match='longer than 0 s'):
        InterpretedAsset(copied)


def test_an_interpreter_that_is_killed_says_so(whole):
    loaded = InterpretedAsset(whole)
    loaded._process._child.kill()
    loaded._process._child.wait()
    with pytest.raises(ProgramError, match='the interpreter failed while running it'):
        loaded.predict_batch({'image': pixels()})


def test_what_comes_back_holds_numbers_only():
    objects = np.array([{}], dtype=object)
    with pytest.raises(ValueError, match='allow_pickle'):
        worker.unpack(worker.pack({'x': objects}))


def test_importing_the_package_imports_none_of_it():
    code = 'import sys, mmpretrain_mobileone_ext; print([m for m in sys.modules if "coreai" in m])'
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert 'coreai_torch' not in done.stdout
    assert "'coreai'" not in done.stdout
