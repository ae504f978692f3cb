"""Hostile labels, features, files and metadata in a generated package."""

import shlex
import subprocess
from pathlib import Path

import pytest
from hostile_text import NAMES
from markdown_it import MarkdownIt
from swift_kit import constants, read_literal, strings, syntax_errors, tree

from mmpretrain_mobileone_ext.coreml.program.graph import Feature
from mmpretrain_mobileone_ext.coreml.swift.facts import ModelFacts, Steps
from mmpretrain_mobileone_ext.coreml.swift.package import derived_name
from mmpretrain_mobileone_ext.coreml.swift.render import render_package
from mmpretrain_mobileone_ext.hooks.coreml_export import export_command
from mmpretrain_mobileone_ext.utils.text import shown

#: What Core ML's files can hold: their text is UTF-8.
UNICODE = [n for n in NAMES if not any('\ud800' <= c < '\ue000' for c in n)]
#: Several in one text, so that there are fewer packages.
GROUPS = [' '.join(UNICODE[part::35]) for part in range(35)]


def facts_of(name, runtime):
    feature = Feature(name, 'image', (1, 3, 32, 24), 'float32', 'RGB')
    return ModelFacts(
        path=Path(f'{name}.mlpackage'),
        sha256='0' * 64,
        format='aimodel' if runtime == 'coreai' else 'mlprogram',
        runtime=runtime,
        precision=name,
        half=True,
        ios='16.0',
        macos='13.0',
        image=feature,
        layout='rgb',
        label='' if runtime == 'coreai' else name,
        probabilities=f'{name} p',
        classes=(name, *UNICODE),
        units='all',
        words=name,
        pipeline=(),
        steps=Steps((), name),
    )


def made(name, folder, runtime='coreml'):
    target = folder / derived_name(name)
    target.mkdir()
    render_package(facts_of(name, runtime), derived_name(name), target)
    return target


@pytest.fixture(scope='module')
def packages(tmp_path_factory):
    folder = tmp_path_factory.mktemp('packages')
    found = {}
    for index, name in enumerate(GROUPS):
        (folder / str(index)).mkdir()
        found[name] = made(name, folder / str(index))
    return found


def test_sources_hold_every_name_as_a_literal(packages):
    for name, package in packages.items():
        library = package / 'Sources' / derived_name(name)
        info = constants((library / 'ModelInfo.swift').read_text())
        for key, wanted in dict(
            inputName=name,
            labelName=name,
            probabilitiesName=f'{name} p',
            preprocessing=name,
            precision=name,
            missingStep=name,
        ).items():
            assert read_literal(info[key]) == wanted, (name, key)
        labels = (library / 'Labels.swift').read_text()
        assert strings(labels) == [name, *UNICODE]


def kinds(node):
    """The syntax below a node, without what its literals hold."""
    yield node.type
    if node.type != 'line_string_literal':
        for child in node.children:
            yield from kinds(child)


def syntax(file):
    return list(kinds(tree(file.read_bytes()).root_node))


def test_no_name_leaves_its_literal(packages, tmp_path):
    """No name opens a comment, a string or an interpolation."""
    plain = made('x', tmp_path) / 'Sources/X'
    for name, package in packages.items():
        library = package / 'Sources' / derived_name(name)
        for file in ('ModelInfo.swift', 'Labels.swift'):
            assert syntax_errors((library / file).read_bytes()) == []
            assert syntax(library / file) == syntax(plain / file), name


def page(text):
    """The structure of a Markdown page, and its text."""
    parsed = MarkdownIt('commonmark').enable(['table', 'strikethrough']).parse(text)
    plain = ('text', 'text_special', 'code_inline', 'html_inline', 'softbreak')
    outline = [
        (t.type, t.level, tuple(c.type for c in t.children or () if c.type not in plain))
        for t in parsed
    ]
    parts = [c for t in parsed for c in t.children or ()]
    html = {c.content for c in parts if c.type == 'html_inline'}
    words = ' '.join(c.content for c in parts if c.type != 'html_inline')
    return outline, html, ''.join(words.split())


def test_the_readme_has_one_structure_for_all_names(packages, tmp_path):
    wanted, _, _ = page((made('x', tmp_path) / 'README.md').read_text())
    for name, package in packages.items():
        outline, html, text = page((package / 'README.md').read_text())
        assert outline == wanted, name
        assert html <= {'<code>', '</code>'}, name
        plain = ''.join(shown(name).split())
        for sentence in ('Thenetworkwastestedwith:{}.', 'cannotcarryout{}.', 'mlprogram,{}'):
            assert sentence.format(plain) in text, (name, sentence)


def test_so_it_is_around_an_aimodel(tmp_path):
    (tmp_path / 'plain').mkdir()
    wanted, _, _ = page((made('x', tmp_path / 'plain', 'coreai') / 'README.md').read_text())
    for index, name in enumerate(GROUPS[:4]):
        (tmp_path / str(index)).mkdir()
        package = made(name, tmp_path / str(index), 'coreai')
        outline, html, _ = page((package / 'README.md').read_text())
        assert (outline, html) == (wanted, {'<code>', '</code>'}), name
        info = next(package.rglob('ModelInfo.swift')).read_bytes()
        assert syntax_errors(info) == []
        assert read_literal(constants(info.decode())['probabilitiesName']) == f'{name} p'


def test_another_structure_of_a_readme_is_noticed(tmp_path):
    text = (made('a b', tmp_path) / 'README.md').read_text()
    for inside in ('**a b**', '[a b](x)', 'a\n# b', 'a\n\n- b', '<b>a b</b>'):
        broken = text.replace('tested with: a b', f'tested with: {inside}')
        assert page(broken)[:2] != page(text)[:2]


def test_the_readmes_command_is_one_command(packages):
    for name, package in packages.items():
        (line,) = (
            x for x in (package / 'README.md').read_text().splitlines() if x.startswith('xcrun ')
        )
        done = subprocess.run(
            ['bash', '-c', line.replace('xcrun', r'printf %s\\0', 1)],
            capture_output=True,
            check=True,
        )
        library = f'Sources/{derived_name(name)}/Model'
        assert done.stdout.decode().split('\0') == [
            'coremlcompiler',
            'compile',
            f'{library}/{Path(f"{name}.mlpackage").name}',
            library,
            '',
        ], name


def test_an_export_written_as_a_command_keeps_its_words():
    for name in UNICODE:
        if not name.isprintable():
            continue  # of those bash is asked, in test_outside_text
        paths = [Path(f'{letter}{name}') for letter in 'xyz']
        command = export_command(*paths, dict(author=name))
        config, checkpoint, out = map(str, paths)
        assert shlex.split(command)[2:] == [config, checkpoint, '--out', out, '--author', name]
