"""README.md: short, true to the program, and every snippet runs as printed."""

import ast
import re
import shlex

import pytest
import torch
from docs_kit import DOCS, README, ROOT, commands, pages, snippets
from mmengine.config import Config
from mmengine.registry import HOOKS
from mmpretrain.registry import MODELS
from PIL import Image
from swift_kit import sources, syntax_errors

from mmpretrain_mobileone_ext.commands.console.table import COMMANDS
from mmpretrain_mobileone_ext.errors import MobileOneExtError

TEXT = README.read_text('utf-8')
WORDS = 900
KIBIBYTES = 200
ALL = [(page, line) for page in pages() for line in commands(page)]
OURS = [(page, line) for page, line in ALL if line.startswith('mobileone-ext ')]
MAKE = [line.split('#')[0].split() for _, line in ALL if line.startswith('make ')]
#: Pages with configs that inherit one, and the hooks that each has to keep.
CONFIGS = (
    README,
    *(
        DOCS / name
        for name in ('research/guide.md', 'research/quantization.md', 'phone/exporting.md')
    ),
)
KEPT = ['EMAHook', 'EMALoadHook', 'DeploySwitchHook']
#: What else may be typed.
OTHERS = ('pip install ', 'python -m venv ', 'make ', 'mobileone-ext ')


def parsed(line):
    """A command of ours, by its own parser."""
    name, *words = shlex.split(line, comments=True)[1:]
    parser = COMMANDS[name].build_parser()
    if COMMANDS[name].is_mmpretrains:
        given, unknown = parser.parse_known_args(words)
        assert not unknown
        return given
    return parser.parse_args(words)


def test_it_is_short():
    """Everything counts: code, tables, links and comments too."""
    assert len(TEXT.split()) <= WORDS


def test_it_has_two_commands_install_and_a_picture():
    assert '## Two commands\n\n```sh\nmake demo' in TEXT
    assert 'make test ' in TEXT
    assert TEXT.index('![') < TEXT.index('## Install') < TEXT.index('## Two commands')


@pytest.mark.parametrize('name', re.findall(r'!\[.*?\]\((.*?)\)', TEXT))
def test_pictures_are_there_and_small(name):
    path = ROOT / name
    assert path.stat().st_size <= KIBIBYTES * 1024
    assert Image.open(path).size[0] >= 1200


def test_no_other_kind_of_command_is_printed():
    assert {line for _, line in ALL if not line.startswith(OTHERS)} == set()
    assert len(OURS) > 20


@pytest.mark.parametrize('line', [line for _, line in OURS])
def test_every_printed_command_fits_its_parser(line):
    assert parsed(line)


def test_a_wrong_option_is_noticed():
    with pytest.raises(MobileOneExtError, match='unrecognized arguments'):
        parsed('mobileone-ext export CONFIG x.pth --out a.mlpackage --no-such-option')


def test_configs_that_are_named_exist():
    named = [word for page, line in OURS for word in shlex.split(line, comments=True)]
    ours = [w.partition('::')[2] for w in named if w.startswith('mmpretrain_mobileone_ext::')]
    files = [w for w in named if w.startswith('configs/')]
    assert ours
    assert files
    missing = [w for w in ours if not (ROOT / 'configs' / w).is_file()]
    missing += [w for w in files if not (ROOT / w).is_file()]
    assert missing == []


def test_targets_of_make_exist():
    targets = set(re.findall(r'^([\w-]+):', (ROOT / 'Makefile').read_text('utf-8'), re.MULTILINE))
    typed = {word for line in MAKE for word in line[1:] if '=' not in word}
    assert {'demo', 'test', 'docs'} <= typed
    assert typed - targets == set()


def test_extras_that_are_named_exist():
    tree = ast.parse((ROOT / 'setup.py').read_text('utf-8'))
    (extras,) = (
        keyword.value
        for keyword in ast.walk(tree)
        if getattr(keyword, 'arg', '') == 'extras_require'
    )
    known = {key.value for key in extras.keys}
    typed = {
        e for _, line in ALL for found in re.findall(r'\.\[(.*?)\]', line) for e in found.split(',')
    }
    assert 'all' in typed
    assert typed - known == set()


def test_make_test_is_what_ci_runs():
    assert '\nmake test\n' in (ROOT / '.ci/run').read_text('utf-8')


@pytest.mark.parametrize('page', pages(), ids=lambda page: page.stem)
def test_links_lead_somewhere(page):
    text = re.sub(r'^```.*?^```', '', page.read_text('utf-8'), flags=re.MULTILINE | re.DOTALL)
    targets = re.findall(r'\]\((?!https?:)([^)#]+)(?:#[^)]*)?\)', text)
    assert [t for t in targets if not (page.parent / t).exists()] == []


def config_snippets():
    return [
        (page, text)
        for page in CONFIGS
        for text in snippets(page, 'python')
        if text.startswith('_base_')
    ]


@pytest.mark.parametrize('text', [text for _, text in config_snippets()])
def test_the_config_builds(text, tmp_path):
    path = tmp_path / 'mine.py'
    path.write_text(text, 'utf-8')
    cfg = Config.fromfile(path)
    model = MODELS.build(cfg.model).eval()
    side = 32 if 'digits' in text else 64
    images = torch.rand(1, 3, side, side)
    channels = cfg.model.head.in_channels
    last = 4 if 'digits' in text else 2
    assert model.backbone(images)[-1].shape == (1, channels, last, last)
    assert model(images).shape == (1, cfg.model.head.num_classes)
    kinds = [type(HOOKS.build(hook)).__name__ for hook in cfg.custom_hooks]
    # Those that a list without the inherited ones would drop.
    assert [kind for kind in kinds if kind in KEPT] == KEPT


def test_the_config_of_readme_sees_the_whole_image(tmp_path):
    (text,) = [text for page, text in config_snippets() if page == README]
    path = tmp_path / 'mine.py'
    path.write_text(text, 'utf-8')
    cfg = Config.fromfile(path)
    steps = cfg.train_dataloader.dataset.pipeline
    assert [step.scale for step in steps if step.type == 'RandomResizedCrop'] == [224]
    assert 'SwitchRecipeHook' not in str(cfg.custom_hooks)
    assert cfg.model.backbone.num_conv_branches == 2


def test_the_forms_of_a_network_are_printed_as_told(capsys):
    (text,) = snippets(DOCS / 'research/online.md', 'python')
    exec(compile(text.replace('8, 3, 224, 224', '2, 3, 32, 32'), 'online.md', 'exec'), {})
    assert 'branches' in capsys.readouterr().out


@pytest.fixture
def clone(tmp_path, monkeypatch):
    """A folder with what a clone has after the demo: configs, data, an untrained checkpoint."""
    from mmpretrain_mobileone_ext.commands.training.demo import write_digits

    (tmp_path / 'configs').symlink_to(ROOT / 'configs')
    write_digits(tmp_path / 'data/digits')
    work = tmp_path / 'work_dirs/demo-digits'
    work.mkdir(parents=True)
    cfg = Config.fromfile(ROOT / 'configs/digits/mobileone-tiny_bs64_digits.py')
    model = MODELS.build(cfg.model)
    meta = dict(dataset_meta=dict(classes=list('0123456789')))
    torch.save(dict(state_dict=model.state_dict(), meta=meta), work / 'epoch_25.pth')
    monkeypatch.chdir(tmp_path)
    return tmp_path


def five_lines():
    (text,) = [t for t in snippets(README, 'python') if 'get_model' in t]
    return text


def test_the_lines_of_python_run(clone, capsys):
    exec(compile(five_lines(), 'README.md', 'exec'), {})
    # Before it stands the bar of MMPretrain.
    assert capsys.readouterr().out.rstrip()[-1] in '0123456789'


def test_the_lines_of_swift_call_what_a_package_has(clone):
    from mmpretrain_mobileone_ext.coreml import export_coreml

    export_coreml(
        'configs/digits/mobileone-tiny_bs64_digits.py',
        'work_dirs/demo-digits/epoch_25.pth',
        'digits.mlpackage',
        verify_data=8,
        swift='DigitsKit',
    )
    code = '\n'.join(file.read_text('utf-8') for file in sources(clone / 'DigitsKit'))
    for text in snippets(README, 'swift') + snippets(DOCS / 'phone/swift.md', 'swift'):
        assert not syntax_errors(text)
        assert (clone / 'DigitsKit/Sources' / re.search(r'import (\w+)', text)[1]).is_dir()
        (kind,) = re.findall(r'(\w+Predictor)\.', text)
        assert re.search(rf'(class|struct|actor) {kind}\b', code)
        calls = re.findall(r'\.(\w+)\((?:(\w+):|(\)|))', text)
        assert {name for name, *_ in calls} >= {'load', 'prediction', 'data', 'top'}
        for name, label, end in calls:
            first = '' if end else rf'{label or "_"}\b'
            assert re.search(rf'func {name}\(\s*{first}', code), name
        for name in ('label', 'probability'):
            assert f'.{name}' in text
            assert re.search(rf'\b(let|var) {name}\b', code)
