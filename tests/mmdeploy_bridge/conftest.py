"""Let these tests use the images, networks and oracle of the export tests."""
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent.parent / 'coreml'))
