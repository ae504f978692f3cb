"""A benchmark as a generated Swift package writes it."""

GOOD = dict(
    schema_version=1,
    date='2026-11-24T20:00:00Z',
    build='release',
    model=dict(name='model', sha256='0' * 64, format='mlprogram', precision='fp16'),
    device=dict(
        model='iPhone15,2',
        system='iOS',
        system_version='17.5.1',
        simulator=False,
        processors=6,
        memory_mib=5632.0,
        low_power_mode=False,
    ),
    compute_units='all',
    warmup=20,
    iterations=200,
    cold_start=dict(compile_ms=120.5, load_ms=80.25, first_prediction_ms=9.5),
    latency=dict(min_ms=0.5, median_ms=0.6, mean_ms=0.65, p90_ms=0.8, p99_ms=1.5, max_ms=2),
    throughput=1500.0,
    footprint=dict(before_load_mib=10, after_load_mib=30, after_run_mib=32.5),
    thermal=dict(before='nominal', after='fair'),
    compute_plan=dict(cpu=1, gpu=0, neural_engine=44, none=90),
)
