"""Which files of a work dir a report is about."""

import json

import pytest

from mmpretrain_mobileone_ext.errors import MobileOneExtError
from mmpretrain_mobileone_ext.report.collect import look


def put(folder, *names):
    for name in names:
        (folder / name).write_text('x')
    return folder


@pytest.fixture
def run(tmp_path):
    return put(
        tmp_path,
        'config.py',
        'epoch_2.pth',
        'epoch_10.pth',
        'epoch_10_deploy.pth',
        'best_top1_epoch_2.pth',
    )


def test_the_last_checkpoint_is_chosen_by_name(run):
    (run / 'last_checkpoint').write_text('/moved/since/epoch_2.pth\n')
    found = look(run)
    assert found.checkpoint == run / 'epoch_2.pth'
    assert found.deploy is None


def test_else_the_highest_number(run):
    found = look(run)
    assert found.checkpoint == run / 'epoch_10.pth'
    assert found.deploy == run / 'epoch_10_deploy.pth'


def test_else_the_best_else_the_only_one(tmp_path):
    put(tmp_path, 'config.py', 'my_deploy.pth')
    assert look(tmp_path).checkpoint.name == 'my_deploy.pth'
    put(tmp_path, 'my.pth')
    assert look(tmp_path).checkpoint.name == 'my.pth'
    put(tmp_path, 'best_a.pth')
    assert look(tmp_path).checkpoint.name == 'best_a.pth'


def test_a_given_file_wins(run):
    other = put(run, 'other.py') / 'other.py'
    found = look(run, other, run / 'epoch_2.pth')
    assert (found.config, found.checkpoint.name) == (other, 'epoch_2.pth')


def test_core_ml_files_without_what_a_killed_export_leaves(run):
    for name in ('b.mlpackage', 'a.mlpackage', '.a.mlpackage.x.partial', '.c.mlpackage'):
        (run / name).mkdir()
    put(run, 'c.mlmodel')
    assert [p.name for p in look(run).programs] == ['a.mlpackage', 'b.mlpackage', 'c.mlmodel']


def test_recorded_figures_are_read(run):
    rows = [dict(source='epoch_10.pth', top1=99.5, form='x')]
    (run / 'forms.json').write_text(json.dumps(rows))
    assert look(run).recorded == {'epoch_10.pth': 99.5}


@pytest.mark.parametrize('text', ['{', '{"top1": 1}', '[1]', '[{"top1": "high"}]'])
def test_a_broken_table_is_one_line(run, text):
    (run / 'forms.json').write_text(text)
    with pytest.raises(MobileOneExtError, match=r'forms\.json: no'):
        look(run)


def test_what_is_missing_is_said(tmp_path):
    with pytest.raises(MobileOneExtError, match='no such work dir'):
        look(tmp_path / 'none')
    with pytest.raises(MobileOneExtError, match=r'0 checkpoints.*--checkp'):
        look(tmp_path)
    put(tmp_path, 'epoch_1.pth')
    with pytest.raises(MobileOneExtError, match=r'no config.*--config'):
        look(tmp_path)
    with pytest.raises(MobileOneExtError, match=r'no\.py: no such config'):
        look(tmp_path, tmp_path / 'no.py')
    put(tmp_path, 'config.py')
    with pytest.raises(MobileOneExtError, match='no such checkpoint'):
        look(tmp_path, None, tmp_path / 'no.pth')
    put(tmp_path, 'other.py')
    with pytest.raises(MobileOneExtError, match=r'config\.py, other\.py in'):
        look(tmp_path)


def test_two_folded_checkpoints_are_no_guess(tmp_path):
    put(tmp_path, 'config.py', 'a_deploy.pth', 'b_deploy.pth')
    with pytest.raises(MobileOneExtError, match='2 checkpoints'):
        look(tmp_path)


def test_a_table_of_forms_is_checked(run):
    for content, says in (
        (b'\xff', 'cannot read it'),
        (b'{', 'no JSON'),
        (b'[{"top1": "x"}]', 'not a table of forms'),
    ):
        (run / 'forms.json').write_bytes(content)
        with pytest.raises(MobileOneExtError, match=says):
            look(run)
