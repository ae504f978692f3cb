"""Options that a record and a command line share."""

from dataclasses import dataclass
from typing import Optional

import pytest

from mmpretrain_mobileone_ext.commands.cli import ToolParser, check_fields, option
from mmpretrain_mobileone_ext.errors import MobileOneExtError, SpecError


@dataclass(frozen=True)
class Options:
    rounds: int = option(3, 'timed runs', least=1)
    check_batch: Optional[tuple[int, ...]] = option(None, 'images', least=2, type=int, nargs='+')
    kinds: tuple[str, ...] = option(('a',), 'which', allowed=('a', 'b'), called='kind', nargs='+')
    quick: bool = option(False, 'no warm-up', action='store_true')

    def __post_init__(self):
        check_fields(self)


def parsed(*words):
    parser = ToolParser()
    parser.add_fields(Options)
    parser.add_cfg_options()
    return parser, vars(parser.parse_args(words))


def test_defaults_are_those_of_the_record():
    parser, given = parsed()
    assert given.pop('cfg_options') is None
    assert given == vars(Options())
    assert 'timed runs (default: 3)' in ' '.join(parser.format_help().split())


def test_what_is_given_has_the_type_of_the_field():
    _, given = parsed('--rounds', '5', '--check-batch', '2', '4', '--quick', '--cfg-options', 'x=1')
    assert given['cfg_options'] == {'x': 1}
    assert (given['rounds'], given['check_batch'], given['quick']) == (5, [2, 4], True)
    with pytest.raises(MobileOneExtError, match='invalid int'):
        parsed('--rounds', 'many')


@pytest.mark.parametrize(
    ('wrong', 'text'),
    [
        (dict(rounds=0), 'rounds=0; at least 1 is needed'),
        (dict(check_batch=(4, 1)), 'check_batch=1; at least 2 is needed'),
        (dict(kinds=('b', 'c')), "kind 'c' is not one of ['a', 'b']"),
    ],
)
def test_every_value_is_held(wrong, text):
    with pytest.raises(SpecError) as caught:
        Options(**wrong)
    assert str(caught.value) == text
