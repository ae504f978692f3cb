"""Configs are read again as what they were, whatever their values are."""

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from hostile_text import NAMES, RUNS
from hypothesis import given
from hypothesis import strategies as st
from mmengine.config import Config
from mmengine.runner import Runner

from mmpretrain_mobileone_ext.errors import SpecError
from mmpretrain_mobileone_ext.utils.config import MIM, config_text, dump_config

CONFIGS = sorted((MIM / 'configs').glob('*/*.py'))


def read_again(values, folder, suffix='.py'):
    path = Path(folder) / f'written{suffix}'
    Config(dict(values)).dump(path)
    return Config.fromfile(path).to_dict()


def everywhere(name):
    """A value, a key, an item, and an item of each deeper."""
    inner = {name: name, 'deep': [name, (name,), {name: {name: name}}]}
    return dict(a=name, b=inner, c=[inner], d=(name, [name]), e={name: 1})


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """Whatever ran would leave ``pwned`` in the folder of the test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('HOME', 'leaked-home')
    yield tmp_path
    assert not Path('pwned').exists()


@pytest.mark.parametrize('name', NAMES)
def test_python_holds_any_text(name, tmp_path):
    values = everywhere(name)
    assert read_again(values, tmp_path) == values
    assert 'leaked-home' not in (tmp_path / 'written.py').read_text()


@pytest.mark.parametrize('suffix', ['.json', '.yaml', '.yml'])
def test_json_and_yaml_hold_any_text(suffix, tmp_path):
    names = [n for n in NAMES if suffix == '.json' or _is_unicode(n)]
    values = json.loads(
        json.dumps(  # lists for tuples
            {f'name{i}': everywhere(name) for i, name in enumerate(names)}
        )
    )
    assert read_again(values, tmp_path, suffix) == values


def _is_unicode(text):
    return not any('\ud800' <= character < '\ue000' for character in text)


def test_what_yaml_cannot_hold_is_refused(tmp_path):
    with pytest.raises(SpecError, match='surrogate pair, which YAML'):
        read_again(dict(a='a\udc80'), tmp_path, '.yaml')
    assert not list(tmp_path.iterdir())


def test_mmengine_alone_runs_the_name(tmp_path):
    """The negative: without the escape the same name is code."""
    path = tmp_path / 'written.py'
    path.write_text(f'a = {RUNS!r}\n')
    Config.fromfile(path)
    assert Path('pwned').exists()
    Path('pwned').unlink()


keys = (
    st.text(max_size=8)
    | st.sampled_from(NAMES)
    | st.integers()
    | st.booleans()
    | st.tuples(st.text(max_size=3))
)
leaves = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.complex_numbers(allow_nan=False)
    | st.text()
    | st.binary()
    | st.sampled_from(NAMES)
    | st.frozensets(st.integers() | st.text())
    | st.sets(st.text() | st.integers())
)
trees = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(keys, inner, max_size=4)
    ),
    max_leaves=12,
)


@given(trees)
def test_any_value_is_read_again_as_itself(tmp_path_factory, value):
    config = Config(dict(value=value), format_python_code=False)
    path = tmp_path_factory.getbasetemp() / 'property.py'
    dump_config(config, path)
    found = Config.fromfile(path)._cfg_dict.to_dict()['value']
    # repr tells 1 from True, 0.0 from -0.0, and finds nan equal to nan.
    assert _canonical(found) == _canonical(value)


def _canonical(value):
    if isinstance(value, dict):
        return {_canonical(k): _canonical(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value).__name__, tuple(map(_canonical, value))
    if isinstance(value, (set, frozenset)):
        return type(value).__name__, frozenset(map(_canonical, value))
    return type(value).__name__, repr(value)


def test_values_that_mmengine_writes_wrongly(tmp_path):
    values = dict(
        inf=math.inf,
        low=-math.inf,
        octets=b'{{$HOME:x}}',
        array=bytearray(b'{{'),
        span=range(2, 9, 3),
        cut=slice(None, 3),
        dots=...,
        empty=[(), {}, set(), []],
        odd={'class': 1, 'a b': 2, 3: 4, (1, 'x'): 5, None: 6},
    )
    assert read_again(values, tmp_path) == values


def test_what_is_no_literal_is_written_as_what_configs_use(tmp_path):
    found = read_again(
        dict(
            path=Path('a/{{$HOME:x}}'),
            cls=torch.optim.SGD,
            call=json.dumps,
            dtype=torch.float16,
            whole=np.int64(3),
            part=np.float32(0.5),
            yes=np.bool_(True),
        ),
        tmp_path,
    )
    assert found == dict(
        path='a/{{$HOME:x}}',
        cls='torch.optim.sgd.SGD',
        call='json.dumps',
        dtype='torch.float16',
        whole=3,
        part=0.5,
        yes=True,
    )
    assert [type(found[k]) for k in ('whole', 'part', 'yes')] == [int, float, bool]


@pytest.mark.parametrize(
    'key',
    [
        'a b',
        '{{$HOME:x}}',
        'class',
        '_base_',
        '__name',
        'ﬁ',
        'dict',
        'float',
        1,
        '',
        'a=1\nimport os\nb',
        '_deprecation_',
    ],
)
def test_a_top_level_key_that_a_file_would_lose_is_refused(key, tmp_path):
    with pytest.raises(SpecError, match='top-level key') as caught:
        read_again({key: 1}, tmp_path)
    assert '\n' not in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    'value',
    [
        object(),
        lambda: 0,
        torch.ones(2),
        np.ones(2),
        np.longdouble(1),
        [dict(a=[object()])],
        Config(dict(a=1)),
    ],
)
def test_a_value_that_no_file_holds_is_refused(value, tmp_path):
    with pytest.raises(SpecError, match=r'model\.deep') as caught:
        read_again(dict(model=dict(deep=value)), tmp_path)
    assert '\n' not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_nesting_beyond_pythons_parser_is_refused(tmp_path):
    value = 1
    for _ in range(150):
        value = [value]
    with pytest.raises(SpecError, match='cannot be written as Python'):
        read_again(dict(value=value), tmp_path)


@pytest.mark.parametrize('path', CONFIGS[:3] + CONFIGS[-3:], ids=lambda path: path.name)
def test_a_shipped_config_is_written_and_read_as_it_is(path, tmp_path):
    config = Config.fromfile(path)
    assert config.pretty_text == config_text(config) == config.dump()
    again = tmp_path / 'again.py'
    config.dump(str(again))
    assert Config.fromfile(again).to_dict() == config.to_dict()


def test_a_lazy_config_keeps_its_imports_unbuilt(tmp_path):
    (tmp_path / 'base.py').write_text("name = '{{$HOME:x}}'\n")
    (tmp_path / 'lazy.py').write_text(
        'from mmengine.config import read_base\nwith read_base():\n    from .base import *\nfrom '
        'torch.optim import SGD\nfrom no_such_module import Thing\noptimizer = dict(type=SGD, '
        'lr=0.1)\nthing = dict(type=Thing)\n'
    )
    config = Config.fromfile(tmp_path / 'lazy.py')
    config.dump(tmp_path / 'written.py')
    assert Config.fromfile(tmp_path / 'written.py').to_dict() == dict(
        name='{{$HOME:x}}',
        optimizer=dict(type='torch.optim.SGD', lr=0.1),
        thing=dict(type='no_such_module.Thing'),
    )


def test_the_text_follows_the_suffix_of_the_configs_own_file(tmp_path):
    path = tmp_path / 'c.yaml'
    path.write_text('a: 1\n')
    assert yaml.safe_load(Config.fromfile(path).dump()) == dict(a=1)
    with pytest.raises(SpecError, match=r'c\.txt: a config is written as'):
        Config(dict(a=1)).dump(tmp_path / 'c.txt')


def test_the_runner_writes_so(tmp_path):
    """Into the work dir, and as text into every checkpoint."""
    config = Config(
        dict(
            model=dict(type='ImageClassifier', backbone=dict(type='LeNet5', num_classes=3)),
            default_scope='mmpretrain',
            work_dir='runs',
            metadata=dict(classes=list(NAMES)),
        )
    )
    runner = Runner.from_cfg(config)
    (written,) = Path('runs').glob('*.py')
    assert Config.fromfile(written).metadata.classes == list(NAMES)
    runner.call_hook('before_run')
    text = runner.message_hub.get_info('cfg')
    assert Config.fromstring(text, '.py').metadata.classes == list(NAMES)


@pytest.mark.slow
def test_a_custom_import_is_enough(tmp_path):
    """mmpretrain's own tools import the package by the config."""
    (tmp_path / 'c.py').write_text(
        "custom_imports = dict(imports=['mmpretrain_mobileone_ext'])\n"
        'classes = ["{" + "{$HOME:x}}"]\n'
    )
    code = (
        'from mmengine.config import Config; '
        "Config.fromfile('c.py').dump('d.py'); "
        "print(Config.fromfile('d.py').classes)"
    )
    done = subprocess.run([sys.executable, '-c', code], text=True, capture_output=True, check=True)
    assert done.stdout.strip().splitlines()[-1] == "['{{$HOME:x}}']"
