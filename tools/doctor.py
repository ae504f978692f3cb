"""What is installed, which known traps it holds, and what runs here."""

import importlib.util
import sys
from pathlib import Path


def load():
    """The doctor, without the package around it: that one imports torch."""
    here = Path(__file__).resolve().parent
    # In the repository, and in an installed package's .mim/tools.
    homes = (here.parent / 'mmpretrain_mobileone_ext', here.parents[1])
    folder = next(h / 'utils/doctor' for h in homes if (h / 'utils/doctor').is_dir())
    spec = importlib.util.spec_from_file_location(
        'mobileone_doctor', folder / '__init__.py', submodule_search_locations=[str(folder)]
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


if __name__ == '__main__':
    sys.exit(load().main())
