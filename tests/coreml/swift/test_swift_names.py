"""Names of modules from any text."""

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from swift_kit import syntax_errors

from mmpretrain_mobileone_ext.coreml.swift.package import derived_name, module_name
from mmpretrain_mobileone_ext.errors import ExportError


@pytest.mark.parametrize(
    ('text', 'name'),
    [
        ('mobileone-s0_digits', 'MobileoneS0Digits'),
        ('Digits', 'Digits'),
        ('8bit', 'Model8bit'),
        ('', 'Model'),
        ('日本', 'Model'),
        ('Café au lait', 'CafeAuLait'),
        ('swift', 'SwiftModel'),
        ('bench', 'Bench'),
        ('core-ml', 'CoreMlModel'),
        ('pixel image', 'PixelImageModel'),
        ('self', 'SelfModel'),
    ],
)
def test_names(text, name):
    assert derived_name(text) == name


@given(st.text())
@example('a' * 300)
@example('1' * 300)
def test_any_text_gives_a_name_that_compiles(text):
    name = derived_name(text)
    assert re.fullmatch('[A-Z][A-Za-z0-9]{0,70}', name)
    source = f'import {name}\nimport {name}Bench\nfinal class {name}Predictor {{}}\n'
    assert syntax_errors(source) == []
    assert derived_name(name) == name


@pytest.mark.parametrize(
    'name', ['my model', '1x', 'Foundation', '', 'ünder', 'digits', 'a' * 99, 7]
)
def test_a_wish_that_cannot_be_is_refused(name):
    with pytest.raises(ExportError, match='name is') as info:
        module_name(name, 'folder')
    wish = re.search(r"such as '(\w+)'", str(info.value)).group(1)
    assert module_name(wish, 'folder') == wish


def test_a_wish_is_granted():
    assert module_name('MyDigits', 'folder') == 'MyDigits'
    assert module_name(None, 'my folder') == 'MyFolder'
