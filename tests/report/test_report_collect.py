"""A report on a work dir: every form found, scored and told apart."""

import json
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from export_kit import CLASSES, build, oracle, rgb, save
from report_kit import Page, test_images, top1_of

from mmpretrain_mobileone_ext.commands.report import run
from mmpretrain_mobileone_ext.coreml import export_coreml, load_program
from mmpretrain_mobileone_ext.coreml.metadata import write_metadata
from mmpretrain_mobileone_ext.coreml.neural_engine.forecast import estimate_of
from mmpretrain_mobileone_ext.coreml.neural_engine.latency.estimate import fitted_model
from mmpretrain_mobileone_ext.coreml.runtime.engine.chips import CHIPS, DEFAULT_CHIPS
from mmpretrain_mobileone_ext.errors import CheckpointError, MobileOneExtError
from mmpretrain_mobileone_ext.report.collect import collect

TOOL = Path(__file__).resolve().parents[2] / 'tools/report.py'


@pytest.fixture(scope='module')
def found(finished_run):
    return collect(finished_run)


def test_every_form_is_there(found):
    assert [(f.form, f.kind, f.file) for f in found.forms] == [
        ('branches (torch, fp32)', 'torch', 'epoch_2.pth'),
        ('folded (torch, fp32)', 'torch', 'epoch_2_deploy.pth'),
        ('Core ML fp32', 'coreml', 'whole.mlpackage'),
        ('Core ML fp16', 'coreml', 'model.mlpackage'),
        ('Core ML fp16, computed in fp32', 'check', 'model.mlpackage'),
    ]
    assert found.num_images == 9
    assert found.reference == 'branches (torch, fp32)'


def test_accuracy_is_that_of_a_network_written_out(found, finished_run):
    images = [rgb(p) for p in test_images(finished_run)]
    labels = np.repeat(np.arange(len(CLASSES)), 3)
    wanted = oracle(build(), images).numpy()
    for form in found.forms:
        assert form.top1 == pytest.approx(top1_of(wanted, labels)), form
        assert form.agreement == 100.0


def test_psnr_is_that_of_the_saved_file(found, finished_run):
    images = [rgb(p) for p in test_images(finished_run)]
    wanted = oracle(build(), images)
    for name, arithmetic in (('Core ML fp16', 'fp16'), ('Core ML fp16, computed in fp32', 'fp32')):
        loaded = load_program(finished_run / 'model.mlpackage', arithmetic)
        pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
        got = loaded.predict_batch({'image': pixels.float()})
        error = got['classLabel_probs'].double() - wanted
        psnr = 10 * np.log10(float(wanted.max() ** 2 / error.square().mean()))
        # The network itself is in fp32, the oracle in fp64.
        assert found.form(name).psnr_db == pytest.approx(psnr, abs=0.01)


def test_sizes_and_operations_are_counted(found, finished_run):
    forms = {f.form: f for f in found.forms}
    files = (finished_run / 'model.mlpackage').rglob('*')
    assert forms['Core ML fp16'].size_bytes == sum(p.stat().st_size for p in files if p.is_file())
    whole = torch.load(finished_run / 'epoch_2.pth')['state_dict']
    branches = forms['branches (torch, fp32)']
    assert branches.size_bytes == sum(v.numel() * v.element_size() for v in whole.values())
    folded = forms['folded (torch, fp32)']
    assert folded.size_bytes < branches.size_bytes
    assert folded.ops < branches.ops
    program = load_program(finished_run / 'model.mlpackage').program
    assert forms['Core ML fp16'].ops == len(program.operations)


def test_drift_and_bounds_are_measured(found):
    (drift,) = found.drift
    assert (drift.form, drift.images) == ('Core ML fp16', 9)
    assert {'conv', 'softmax'} <= {r.type for r in drift.rows}
    assert 1e-5 < max(r.relative for r in drift.rows) < 1e-2
    assert [(c.form, c.tolerance, c.met) for c in found.parity] == [
        ('folded (torch, fp32)', 'fold-float32', True),
        ('Core ML fp32', 'export-fp32', True),
        ('Core ML fp16', 'export-fp16', True),
    ]


def test_weights_are_looked_at(found, finished_run):
    assert found.weight_ranges
    ranges = {r.shape: r for r in found.weight_ranges}
    head = build().head.fc.weight.detach()
    row = ranges[tuple(head.shape)]
    largest = head.abs().amax(1)
    assert row.ratio == pytest.approx(float(largest.max() / largest.median()), rel=1e-3)
    assert all(r.channel_max == () for r in found.weight_ranges)
    order = [r.sqnr_tensor_db for r in found.weight_ranges]
    assert order == sorted(order)


def test_every_file_is_judged_for_the_neural_engine(found):
    whole, half = found.engine
    assert [whole.form, half.form] == ['Core ML fp32', 'Core ML fp16']
    assert {chip.level for chip in half.chips} == {'good'}
    assert {chip.level for chip in whole.chips} == {'bad'}
    assert not half.off
    assert {group.text for group in whole.off} == {'it is fp32'}
    assert any('fp16, as the engine computes' in line for line in half.weights)
    assert {time.ms for time in whole.times} == {None}


def test_every_file_has_the_latency_that_preflight_estimates(found, finished_run):
    program = load_program(finished_run / 'model.mlpackage').program
    times = found.engine[1].times
    for name, time in zip(DEFAULT_CHIPS, times):
        wanted = estimate_of(program, fitted_model(), CHIPS[name])
        assert (time.ms, time.low, time.high) == (wanted.ms, wanted.low, wanted.high)
        assert time.chip == name
        assert time.sentence.startswith(f'{name}: {wanted.words()}')
    assert len(times) == len(DEFAULT_CHIPS)


def test_provenance_is_stated(found, finished_run):
    origin = found.provenance
    names = dict(origin.files)
    assert list(names) == [
        'epoch_2.pth',
        'epoch_2_deploy.pth',
        'whole.mlpackage',
        'model.mlpackage',
    ]
    assert len(names['epoch_2.pth']) == 64
    assert origin.config == 'tiny.py'
    assert origin.config_text == (finished_run / 'tiny.py').read_text()
    assert 'image, RGB, 1 x 3 x 32 x 32' in origin.inputs[0]
    assert 'classLabel: string' in origin.outputs
    assert 'resize to 32 x 32' in origin.preprocessing
    assert (
        origin.versions['torch'] == torch.__version__.split('+')[0]
        or origin.versions['torch'] == torch.__version__
    )
    assert not found.warnings


def test_some_images_are_enough(finished_run):
    found = collect(finished_run, images=4)
    assert found.num_images == 4
    assert found.images == '4 of 9 images of the test split'


def test_the_bound_is_the_users(work_dir):
    page = run([str(work_dir), '--max-drop', '3', '--out', str(work_dir / 'r')])
    told = json.loads(page.with_name('report.json').read_text())
    assert told['max_drop'] == told['accuracy']['bound_points'] == 3
    assert told['accuracy']['images'] == 9
    assert told['verdict']['level'] == 'warn'
    with pytest.raises(MobileOneExtError, match='max_drop'):
        run([str(work_dir), '--max-drop', '-1'])


def test_another_checkpoint_is_told(work_dir):
    other = save(build(seed=5), work_dir / 'other.pth')
    shutil.rmtree(work_dir / 'whole.mlpackage')
    found = collect(work_dir, checkpoint=other)
    assert 'another checkpoint, epoch_2.pth' in found.form('Core ML fp16').note
    assert found.forms[0].file == 'other.pth'
    assert found.forms[0].note == ''
    assert found.num_disagreements > 0
    assert found.disagreements[0].truth in CLASSES


@pytest.mark.slow
def test_a_figure_that_contradicts_the_demos_is_a_warning(work_dir):
    top1 = collect(work_dir).forms[0].top1
    for recorded, count in ((top1, 0), (top1 + 1, 1)):
        (work_dir / 'forms.json').write_text(
            json.dumps([dict(source='model.mlpackage', top1=recorded)])
        )
        assert len(collect(work_dir).warnings) == count


def test_a_broken_file_is_a_row_that_says_so(work_dir):
    weights = next((work_dir / 'model.mlpackage').rglob('weight.bin'))
    weights.write_bytes(weights.read_bytes()[:100])
    found = collect(work_dir)
    row = next(f for f in found.forms if f.file == 'model.mlpackage')
    assert row.top1 is None
    assert 'truncated' in row.note
    assert found.form('Core ML fp32').top1 is not None
    assert not found.drift


def test_two_files_of_a_kind_are_told_apart(work_dir):
    shutil.copytree(work_dir / 'model.mlpackage', work_dir / 'b.mlpackage')
    names = [f.form for f in collect(work_dir).forms]
    assert len(set(names)) == len(names) == 7
    assert 'Core ML fp16 · b' in names
    assert 'Core ML fp16, computed in fp32 · model' in names


@pytest.mark.slow
def test_a_mixed_file_says_what_stays_in_fp32(work_dir):
    path = work_dir / 'model.mlpackage'
    for text, wanted in (
        ('[{"name": "conv", "type": "conv", "why": "large"}]', (('conv', 'large'),)),
        ('[]', ()),
        ('nonsense', ()),
        ('[1]', ()),
    ):
        write_metadata(path, dict(in_fp32=text), {}, '')
        assert collect(work_dir, images=1).kept_fp32 == wanted


@pytest.mark.slow
def test_a_tensor_is_given_as_the_file_says(work_dir):
    shutil.rmtree(work_dir / 'whole.mlpackage')
    path = export_coreml(
        work_dir / 'tiny.py',
        work_dir / 'epoch_2.pth',
        work_dir / 'model.mlpackage',
        input='tensor',
        verify_data='none',
        force=True,
    )
    found = collect(work_dir)
    assert found.form('Core ML fp16').agreement == 100
    assert found.form('Core ML fp16').psnr_db > 50
    # The same program, but it says that the app normalizes: another result.
    write_metadata(path, dict(input_layout='normalized tensor'), {}, '')
    assert collect(work_dir).form('Core ML fp16').psnr_db < 30
    write_metadata(path, dict(input_layout='anything'), {}, '')
    row = collect(work_dir).form('Core ML fp16')
    assert row.top1 is None
    assert 'does not say' in row.note


class Evil:
    def __reduce__(self):
        return (exec, ('raise SystemExit("executed")',))


def test_an_unsafe_checkpoint_is_refused(work_dir):
    torch.save(dict(state_dict=Evil()), work_dir / 'epoch_2.pth')
    with pytest.raises(CheckpointError, match=r'epoch_2\.pth'):
        collect(work_dir)


def test_the_library_draws_what_it_found(work_dir):
    page = run([str(work_dir), '--images', '3'])
    assert page == work_dir / 'report/report.html'
    document = json.loads((work_dir / 'report/report.json').read_text())
    rows = Page(page.read_text()).rows('Scored')[1:]
    assert len(rows) == 4 == len(document['forms']) - 1
    assert document['num_images'] == 3


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ([], 'work_dir'),
        (['none'], 'no such work dir'),
        (['.', '--images', '0'], 'allowed'),
        (['.', '--nonsense'], 'nonsense'),
    ],
)
def test_mistakes_are_one_line(arguments, message, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, 'argv', [str(TOOL), *arguments])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(TOOL), run_name='__main__')
    out, err = capsys.readouterr()
    assert end.value.code == 2
    assert out == ''
    assert err.startswith('error: ')
    assert err.count('\n') == 1
    assert message in err


def test_importing_it_loads_neither_templates_nor_coremltools():
    code = (
        'import sys, mmpretrain_mobileone_ext.commands.training.demo\n'
        'import mmpretrain_mobileone_ext.report\n'
        "print([m for m in ('coremltools', 'mmdeploy', 'jinja2') "
        'if m in sys.modules])\n'
    )
    done = subprocess.run(
        [sys.executable, '-W', 'ignore', '-c', code], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip().splitlines()[-1] == '[]'
