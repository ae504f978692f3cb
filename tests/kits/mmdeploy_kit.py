"""What the tests of the way through mmdeploy share."""

import importlib.util
import re
import runpy
import sys
from pathlib import Path

import pytest
from export_kit import build, photos, save, write_config

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / 'configs/mmdeploy'
TOOL = ROOT / 'tools/deploy_mmdeploy.py'
CORE_ML = CONFIGS / 'classification_coreml-fp16_static-224x224.py'
CORE_ML_32 = CONFIGS / 'classification_coreml-fp32_static-224x224.py'
ONNX = CONFIGS / 'classification_onnxruntime_static-224x224.py'
ONNX_BATCH = CONFIGS / 'classification_onnxruntime_dynamic-batch-224x224.py'
NCNN = CONFIGS / 'classification_ncnn_static-224x224.py'
ALL = sorted(CONFIGS.glob('*.py'))


def lab(root, count=2):
    """A config, photos of 32 x 32 pixels and a branch checkpoint."""
    write_config(root / 'good.py', photos(root / 'data', count))
    save(build(), root / 'good.pth')
    return root


def needs(*names):
    """Skip where one of the packages is not installed."""
    missing = [n for n in names if importlib.util.find_spec(n) is None]
    return pytest.mark.skipif(bool(missing), reason=f'needs {", ".join(missing)}')


def call(argv, monkeypatch, capsys):
    """Exit code, stdout and stderr of the tool, in this process."""
    monkeypatch.setattr(sys, 'argv', [str(TOOL), *map(str, argv)])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(TOOL), run_name='__main__')
    out, err = capsys.readouterr()
    return end.value.code, out, err


def errors(text):
    """Lines of stderr that do not report a finished step."""
    return [line for line in text.splitlines() if not re.fullmatch(r'\w+: \d+\.\d s', line)]


def without(monkeypatch, *names):
    """Make packages look as if they were not installed."""
    find = importlib.util.find_spec

    def found(name, package=None):
        return None if name in names else find(name, package)

    monkeypatch.setattr(importlib.util, 'find_spec', found)
