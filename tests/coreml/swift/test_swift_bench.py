"""The benchmark's JSON against its schema and its reader."""

import copy
import json
import re

import jsonschema
import pytest
from bench_json import GOOD

from mmpretrain_mobileone_ext.coreml.swift import read_bench_json
from mmpretrain_mobileone_ext.coreml.swift.bench import SCHEMA
from mmpretrain_mobileone_ext.errors import ExportError


def write(folder, content):
    path = folder / 'bench.json'
    path.write_text(json.dumps(content))
    return path


def without(*keys):
    """A good file without the value at these keys."""
    content = copy.deepcopy(GOOD)
    inner = content
    for key in keys[:-1]:
        inner = inner[key]
    del inner[keys[-1]]
    return content


def changed(*keys, value):
    content = copy.deepcopy(GOOD)
    inner = content
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = value
    return content


def test_schema_is_a_schema():
    schema = json.loads(SCHEMA.read_text())
    jsonschema.Draft202012Validator.check_schema(schema)


def test_read(tmp_path):
    found = read_bench_json(write(tmp_path, GOOD))
    assert (found.device, found.system, found.compute_units) == ('iPhone15,2', 'iOS 17.5.1', 'all')
    assert (found.compile_ms, found.load_ms, found.first_prediction_ms) == (120.5, 80.25, 9.5)
    assert (
        found.min_ms,
        found.median_ms,
        found.mean_ms,
        found.p90_ms,
        found.p99_ms,
        found.max_ms,
    ) == (0.5, 0.6, 0.65, 0.8, 1.5, 2)
    assert (found.throughput, found.footprint_mib) == (1500.0, 32.5)
    assert found.thermal == ('nominal', 'fair')
    assert found.plan == dict(cpu=1, gpu=0, neural_engine=44, none=90)
    assert (found.model, found.precision, found.warmup, found.iterations) == (
        'model',
        'fp16',
        20,
        200,
    )


@pytest.mark.parametrize('content', [without('compute_plan'), changed('compute_plan', value=None)])
def test_old_systems_have_no_plan(tmp_path, content):
    assert read_bench_json(write(tmp_path, content)).plan is None


def test_what_the_system_does_not_tell(tmp_path):
    content = without('cold_start', 'compile_ms')
    content['footprint'] = {}
    found = read_bench_json(write(tmp_path, content))
    assert (found.compile_ms, found.footprint_mib) == (None, None)


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        (without('latency', 'p99_ms'), "latency: 'p99_ms' is a required"),
        (without('throughput'), "the top level: 'throughput' is a required"),
        (changed('schema_version', value=2), 'schema_version: 1 was expected'),
        (changed('iterations', value=0), 'iterations: 0 is less than'),
        (changed('build', value='fast'), "build: 'fast' is not one of"),
        (changed('latency', 'min_ms', value='1'), r'latency\.min_ms: '),
        (changed('extra', value=1), 'extra'),
        (changed('latency', 'min_ms', value=0.7), 'latencies are not in order'),
        (changed('throughput', value=2000.0), 'more than the mean latency'),
        ([], 'the top level'),
    ],
)
def test_other_files_are_refused(tmp_path, content, message):
    with pytest.raises(ExportError, match=message) as info:
        read_bench_json(write(tmp_path, content))
    assert 'bench.json' in str(info.value)
    assert '\n' not in str(info.value)


def test_unreadable_files(tmp_path):
    (tmp_path / 'a.json').write_text('{')
    for name in ('a.json', 'missing.json'):
        with pytest.raises(ExportError, match='cannot read the benchmark'):
            read_bench_json(tmp_path / name)


@pytest.mark.parametrize('number', ['NaN', 'Infinity', '1e999', '1' * 400])
def test_numbers_are_finite(tmp_path, number):
    path = tmp_path / 'bench.json'
    path.write_text(json.dumps(GOOD).replace('"max_ms": 2', f'"max_ms": {number}'))
    with pytest.raises(ExportError, match=r'read the benchmark: .* is no finite number') as e:
        read_bench_json(path)
    assert '\n' not in str(e.value)


def snake(name):
    """As Foundation's convertToSnakeCase spells a property."""
    return re.sub('([A-Z]+)', lambda m: f'_{m[0].lower()}', name)


def test_schema_has_the_properties_of_the_swift_report(packages):
    text = next(packages['rgb'].rglob('BenchReport.swift')).read_text()
    declared = {snake(name) for name in re.findall(r'public var (\w+):', text)}
    found = set()

    def collect(schema):
        for name, inner in schema.get('properties', {}).items():
            found.add(name)
            collect(inner)
        for inner in schema.get('oneOf', ()):
            collect(inner)

    collect(json.loads(SCHEMA.read_text()))
    assert found == declared
