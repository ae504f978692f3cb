"""Turns: every thing once a round, each round with another first one."""

from mmpretrain_mobileone_ext.commands import benchmark as timing
from mmpretrain_mobileone_ext.commands.benchmark import in_turns, paired_ratio, time_in_turns


def test_each_round_begins_with_the_next_one():
    assert ''.join(in_turns('abc', 4)) == 'abc' + 'bca' + 'cab' + 'abc'
    assert list(in_turns('', 3)) == []


def test_times_of_every_round_without_the_warmup(monkeypatch):
    """Each call moves the clock by its own amount, once more each time."""
    order, counts, now = [], [], [0.0]
    monkeypatch.setattr(timing.time, 'perf_counter', lambda: now[0])

    def call(name, seconds):
        def run():
            order.append(name)
            now[0] += seconds * order.count(name)

        return run

    calls = dict(a=call('a', 1), b=call('b', 10))
    found = time_in_turns(calls, rounds=3, warmup=1, advance=counts.append)
    assert found == dict(a=(2000, 3000, 4000), b=(20000, 30000, 40000))
    assert ''.join(order) == 'ab' + 'ba' + 'ab' + 'ba'
    assert counts == [1] * 4
    assert time_in_turns({}, 3, 1) == {}


def test_ratios_are_of_times_in_one_round():
    # 8/4, 20/40, 10/8: not the ratio of the medians
    assert paired_ratio((8.0, 20.0, 10.0), (4.0, 40.0, 8.0)) == 1.25
    assert paired_ratio((), ()) is None
