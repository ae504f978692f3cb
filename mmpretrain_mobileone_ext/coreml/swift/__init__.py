"""A Swift package around an exported classifier, and its benchmark's JSON.

Neither jinja2 nor jsonschema is imported before a function needs it.
"""

from .bench import BenchResult, read_bench_json
from .package import module_name, write_swift_package

__all__ = ['BenchResult', 'module_name', 'read_bench_json', 'write_swift_package']
