"""Every supported Python, each in an environment of its own: ``nox``, or ``nox -s tests-3.13``.

``make`` works without nox, on one Python; CI does that.
"""

import nox

PYTHONS = ['3.9', '3.10', '3.11', '3.12', '3.13']
#: Of the versions in ``requirements-tested.txt``; other Pythons take the newest that pip finds.
TESTED = '3.11'
nox.options.sessions = ['lint', 'tests']
nox.options.default_venv_backend = 'venv'


def install(session: nox.Session, *extras: str) -> None:
    """The package as a user gets it, from a wheel's metadata, with extras."""
    pins = ['-c', 'requirements-tested.txt'] if session.python == TESTED else []
    session.install(*pins, '-e', f'.[{",".join(extras)}]')


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """What is not slow; words behind ``--`` go to pytest."""
    install(session, 'mmcv-lite', 'test')
    words = session.posargs or ['tests']
    session.run('pytest', '-n', '2', '--dist', 'loadfile', '-m', 'not slow', *words)


@nox.session(python=PYTHONS[1:])
def onedl(session: nox.Session) -> None:
    """With OneDL's packages, which need Python 3.10."""
    install(session, 'onedl', 'test')
    words = session.posargs or ['tests/hooks', 'tests/commands', 'tests/export']
    session.run('pytest', '-n', '2', '--dist', 'loadfile', '-m', 'not slow', *words)


@nox.session(python=TESTED)
def lint(session: nox.Session) -> None:
    """ruff and mypy."""
    install(session, 'mmcv-lite', 'dev')
    session.run('ruff', 'format', '--check', '.')
    session.run('ruff', 'check', '.')
    session.run('mypy')


@nox.session(python=TESTED)
def docs(session: nox.Session) -> None:
    """The documentation; a warning is an error."""
    install(session, 'mmcv-lite', 'coreml', 'docs')
    session.run('sphinx-build', '-W', '-b', 'html', 'docs', 'docs/_build/html')
