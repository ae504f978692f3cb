"""Which hook has to come before which."""
from __future__ import annotations

from collections.abc import Sequence

from mmengine.hooks import Hook

from ..errors import SpecError

Kinds = Sequence[type]


def check_order(hooks: Sequence[Hook], own: Hook, *, after: Kinds = (),
                before: Kinds = ()) -> None:
    """Refuse a priority that puts ``own`` on the wrong side of another.

    Args:
        hooks: all hooks of the run, in the order in which they are called.
        own: one of them.
        after: kinds of hooks that ``own`` has to follow.
        before: kinds of hooks that ``own`` has to precede.

    Raises:
        SpecError: names the hooks and the priority.
    """
    place = next(i for i, hook in enumerate(hooks) if hook is own)
    name = type(own).__name__
    for kinds, wrong, word in ((after, hooks[place:], 'after'),
                               (before, hooks[:place], 'before')):
        found = [kind.__name__ for kind in kinds
                 if any(isinstance(hook, kind) for hook in wrong)]
        if found:
            raise SpecError(
                f'{name}: priority={own.priority!r} puts {found[0]} {word} '
                f'it; {_rule(after, before)}')


def _rule(after: Kinds, before: Kinds) -> str:
    parts = [f'{word} {" and ".join(kind.__name__ for kind in kinds)}'
             for word, kinds in (('after', after), ('before', before))
             if kinds]
    return f'it must come {" and ".join(parts)}'
