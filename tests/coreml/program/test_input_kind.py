"""Pixels or a normalized tensor: what a file says about its input."""

from pathlib import Path

import pytest

from mmpretrain_mobileone_ext.coreml.program.graph import (
    LAYOUT,
    NORMALIZED,
    Feature,
    Program,
    takes_normalized,
)
from mmpretrain_mobileone_ext.errors import ProgramError


def program(kind, metadata):
    feature = Feature('input', kind, (1, 3, 8, 8), 'fp32')
    return Program(Path('m.mlpackage'), 'mlprogram', (feature,), (), (), None, '', '', metadata, 7)


@pytest.mark.parametrize(
    ('kind', 'metadata', 'wanted'),
    [
        ('image', {}, False),
        ('image', {LAYOUT: 'RGB'}, False),
        ('tensor', {LAYOUT: 'tensor'}, False),
        ('tensor', {LAYOUT: NORMALIZED}, True),
    ],
)
def test_what_files_of_this_package_say(kind, metadata, wanted):
    assert takes_normalized(program(kind, metadata)) is wanted


@pytest.mark.parametrize('metadata', [{}, {LAYOUT: 'RGB'}, {'mean': '[1]'}])
def test_a_tensor_that_says_nothing_is_refused_in_one_line(metadata):
    with pytest.raises(ProgramError) as caught:
        takes_normalized(program('tensor', metadata))
    text = str(caught.value)
    assert 'm.mlpackage takes a tensor' in text
    assert 'model.normalize=True' in text
    assert '\n' not in text
