"""``mobileone-ext``: help without torch, one table of commands, examples that work as printed."""

import argparse
import ast
import importlib
import importlib.metadata
import json
import os
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import mobileone_ext
from mmpretrain_mobileone_ext.commands.cli import mmpretrain_tool
from mmpretrain_mobileone_ext.commands.console import launch
from mmpretrain_mobileone_ext.commands.console.table import COMMANDS, OURS, PROGRAM, Command
from mmpretrain_mobileone_ext.utils.config import MIM

REPO = Path(__file__).resolve().parents[2]
DIGITS = f'{OURS}digits/mobileone-tiny_bs64_digits.py'
#: What takes seconds to import, or may be missing.
HEAVY = ('torch', 'mmengine', 'mmcv', 'mmpretrain', 'coremltools', 'matplotlib', 'sklearn', 'timm')
#: Builds every parser as the program does, and tells what that imported.
HELP = f"""
import json, sys
import mobileone_ext
mobileone_ext._put_in_place()
from mmpretrain_mobileone_ext.commands.console.table import COMMANDS
from mmpretrain_mobileone_ext.commands.console.launch import program_parser
texts = {{'': program_parser().format_help()}}
for name, command in COMMANDS.items():
    before = set(sys.modules)
    texts[name] = command.build_parser().format_help()
    heavy = [m for m in {HEAVY} if m in sys.modules]
    assert not heavy, (name, heavy)
print(json.dumps(texts))
"""


def python(*words, cwd=REPO, **environment):
    env = {**os.environ, 'PYTHONPATH': str(REPO), 'COLUMNS': '80', **environment}
    return subprocess.run(
        [sys.executable, *map(str, words)], capture_output=True, text=True, cwd=cwd, env=env
    )


@pytest.fixture(scope='module')
def helps():
    done = python('-c', HELP)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def run(monkeypatch, *words):
    """Exit code of the program in this process."""
    monkeypatch.setattr(sys, 'argv', [PROGRAM, *map(str, words)])
    return mobileone_ext.main()


def test_help_imports_nothing_heavy(helps):
    assert helps.keys() == {'', *COMMANDS}


def test_the_guard_sees_an_import():
    done = python('-c', HELP.replace('before = set(sys.modules)', 'import torch'))
    assert "['torch']" in done.stderr


@pytest.mark.parametrize('name', COMMANDS)
def test_every_help_ends_with_an_example(name, helps):
    head, _, example = helps[name].rpartition('example:\n  ')
    assert head.startswith('usage: ')
    assert shlex.split(example)[:2] == [PROGRAM, name]


@pytest.mark.parametrize('name', COMMANDS)
def test_every_option_tells_its_default(name):
    """Where it has one: the words say it, or the formatter adds it."""
    parser = COMMANDS[name].build_parser()
    helped = ' '.join(parser.format_help().split())
    for action in parser._actions:
        assert action.help, action.dest
        if action.option_strings and action.default not in (
            None,
            False,
            '',
            [],
            (),
            '==SUPPRESS==',
        ):
            words = ' '.join(parser._get_formatter()._expand_help(action).split())
            assert 'default' in words, words
            assert words.replace('-', '') in helped.replace('- ', '').replace('-', '')


@pytest.mark.parametrize('name', COMMANDS)
def test_examples_are_parsed_by_their_parser(name):
    parser = COMMANDS[name].build_parser()
    words = shlex.split(parser.epilog.partition('\n')[2])[2:]
    assert parser.parse_args(words)
    for word in words:
        if word.startswith(OURS):
            assert Path(launch._installed(word)).is_file()


def test_the_list_names_every_command(helps):
    listed = [line.split()[0] for line in helps[''].splitlines() if line.startswith('  ')]
    assert set(COMMANDS) <= set(listed)


@pytest.mark.parametrize('name', COMMANDS)
def test_what_runs_a_command_is_there(name):
    module, _, function = COMMANDS[name].run.partition(':')
    assert callable(
        getattr(importlib.import_module(f'mmpretrain_mobileone_ext.{module}'), function)
    )


def started_by(tool):
    """The command that a file of ``tools/`` starts."""
    calls = [n for n in ast.walk(ast.parse(tool.read_text('utf-8'))) if isinstance(n, ast.Call)]
    names = [c.args[0].value for c in calls if getattr(c.func, 'id', '') == 'main' and c.args]
    return names[0] if names else None


def test_tools_and_commands_are_the_same():
    """One that starts no command is an example to copy from, or has to run alone."""
    started = {file.stem: started_by(file) for file in (REPO / 'tools').glob('*.py')}
    assert {n for n, command in started.items() if not command} == {
        'benchmark_throughput',
        'doctor',
    }
    assert {command for command in started.values() if command} == COMMANDS.keys() - {'doctor'}


@pytest.mark.parametrize('name', ['train', 'test'])
def test_options_are_those_of_mmpretrains_tool(name, monkeypatch):
    tool = runpy.run_path(str(mmpretrain_tool(f'{name}.py')))
    monkeypatch.delenv('LOCAL_RANK', raising=False)  # else it asks nothing of the arguments
    found = []
    monkeypatch.setattr(argparse.ArgumentParser, 'parse_args', lambda self: found.append(self))
    with pytest.raises(AttributeError):
        tool['parse_args']()
    ours = COMMANDS[name].build_parser()
    facts = [
        {
            a.dest: (set(a.option_strings), a.default, a.const, a.nargs, a.type)
            for a in parser._actions
        }
        for parser in (ours, found[0])
    ]
    assert facts[0] == facts[1]


def test_a_wrong_word_is_one_line_without_torch():
    done = python('-X', 'importtime', '-m', 'mobileone_ext', 'report', 'x', '--images')
    assert done.returncode == 2
    assert 'error: argument --images: expected one argument; see --help' in done.stderr
    assert '| torch\n' not in done.stderr


@pytest.mark.parametrize(
    ('words', 'said'),
    [
        (['exprot'], "has no command 'exprot'; did you mean export?"),
        (['???'], "has no command '???'; they are finetune, train, "),
        (['export', '--x'], 'are required'),
        (['train', f'{OURS}digits/none.py'], 'there is no such config'),
    ],
)
def test_mistakes(words, said, monkeypatch, capsys):
    assert run(monkeypatch, *words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith('error: ')
    assert said in line


def test_no_words_show_the_help(monkeypatch, capsys):
    with pytest.raises(SystemExit) as stop:
        run(monkeypatch)
    assert stop.value.code == 2
    assert 'commands:' in capsys.readouterr().out


def test_version(monkeypatch, capsys):
    with pytest.raises(SystemExit) as stop:
        run(monkeypatch, '--version')
    assert stop.value.code == 0
    assert capsys.readouterr().out.split()[0] == PROGRAM


@pytest.mark.parametrize(('result', 'code'), [(Path('a b'), 0), (3, 3), (None, 0), (True, 0)])
def test_a_command_gets_its_words_and_its_result_is_told(result, code, monkeypatch, capsys):
    seen = []
    monkeypatch.setattr(Command, '__call__', lambda self, words: seen.append(words) or result)
    assert run(monkeypatch, 'train', DIGITS, '--work-dir', 'x') == code
    config = str(MIM / 'configs/digits/mobileone-tiny_bs64_digits.py')
    assert seen == [[config, '--work-dir', 'x']]
    # For MMPretrain's tools, and for whatever notes the command that was given.
    assert sys.argv == [f'{PROGRAM} train', config, '--work-dir', 'x']
    assert capsys.readouterr().out.strip() == (str(result) if isinstance(result, Path) else '')


def test_the_package_is_whole_when_a_command_runs():
    """Though its modules were imported before it."""
    done = python(
        '-c',
        'import sys, mobileone_ext\n'
        'mobileone_ext._put_in_place()\n'
        'from mmpretrain_mobileone_ext.commands.console.launch import launch\n'
        'from mmpretrain_mobileone_ext.commands.console import table\n'
        'import mmpretrain_mobileone_ext as m\n'
        'assert not hasattr(m, "__all__") and "torch" not in sys.modules\n'
        'def call(self, words):\n'
        '    from mmpretrain.registry import MODELS, HOOKS\n'
        '    from mmpretrain import list_models\n'
        '    assert all(hasattr(m, name) for name in m.__all__)\n'
        '    assert MODELS.get("ConfigurableMobileOne") is m.ConfigurableMobileOne\n'
        '    assert HOOKS.get("DeploySwitchHook") is m.DeploySwitchHook\n'
        '    assert "mobileone-ext-s0_8xb32_in1k" in list_models()\n'
        '    print("whole")\n'
        'table.Command.__call__ = call\n'
        'sys.argv = ["mobileone-ext", "demo"]\n'
        'sys.exit(mobileone_ext.main())\n',
    )
    # OneDL's mmpretrain prints a line of its own when it is imported.
    assert (done.returncode, done.stdout.splitlines()[-1:]) == (0, ['whole']), done.stderr


def test_the_doctor_needs_nothing_else():
    done = python('-I', '-S', '-c', f'import sys; sys.path.insert(0, {str(REPO)!r}); '
                  'sys.argv = ["mobileone-ext", "doctor"]; import mobileone_ext; '
                  'sys.exit(mobileone_ext.main())')  # fmt: skip
    assert done.returncode == 1
    assert done.stderr == ''
    assert 'torch is not installed' in done.stdout


def test_training_in_any_folder(tmp_path):
    """A config of the package, by name, in a folder that holds nothing else."""
    done = python(
        *('-m', 'mobileone_ext', 'train', DIGITS, '--work-dir', 'work'),
        *('--cfg-options', 'train_dataloader.dataset.data_root=nowhere'),
        cwd=tmp_path,
    )
    assert done.returncode in (1, 2)
    assert 'nowhere' in done.stderr.splitlines()[-1]
    assert done.stderr.splitlines()[-1].startswith('error: ')


def has_mmdeploy():
    """By its installation: a folder of tests has its name, too."""
    try:
        return bool(importlib.metadata.version('mmdeploy'))
    except importlib.metadata.PackageNotFoundError:
        return False


@pytest.mark.slow
def test_examples_run_as_printed(tmp_path):
    """After the demo, which they say they need; what is measured does not matter here."""
    names = ['demo', *(name for name in COMMANDS if name not in ('demo', 'doctor'))]
    for name in names:
        if name == 'deploy-mmdeploy' and not has_mmdeploy():
            continue
        example = COMMANDS[name].build_parser().epilog.partition('\n')[2]
        done = python('-m', 'mobileone_ext', *shlex.split(example)[1:], cwd=tmp_path)
        # A network whose statistics were good stays as it is, and that is said.
        kept = name == 'recalibrate-bn' and 'nothing is written' in done.stderr
        assert done.returncode == 0 or kept, (example, done.stderr[-2000:])
    made = {p.name for p in tmp_path.iterdir()}
    assert made >= {'digits.mlpackage', 'digits_deploy.pth', 'digits_timm.pth', 'check_gpu.json'}
    assert (tmp_path / 'work_dirs/digits/model.mlpackage').is_dir()
