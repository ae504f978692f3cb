"""The model of time: its properties, its fit, its errors, and what a user's device makes of it."""

from __future__ import annotations

import math
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mmpretrain_mobileone_ext.commands.benchmark.latency.run import (
    LAYERS,
    evaluate,
    fitted,
    read_features,
    thirty,
)
from mmpretrain_mobileone_ext.coreml.neural_engine.latency.calibrate import calibrate
from mmpretrain_mobileone_ext.coreml.neural_engine.latency.estimate import (
    NOT_FITTED,
    ORDER,
    PREDICTED,
    Estimator,
    bar_of,
    fitted_model,
)
from mmpretrain_mobileone_ext.coreml.neural_engine.latency.features import Layer, has_attention
from mmpretrain_mobileone_ext.coreml.neural_engine.latency.fit import Sample, fit, leave_one_out
from mmpretrain_mobileone_ext.coreml.neural_engine.latency.forms import (
    CHOSEN,
    FORMS,
    count,
    products,
)
from mmpretrain_mobileone_ext.coreml.neural_engine.latency.published import published
from mmpretrain_mobileone_ext.coreml.neural_engine.suggest import at_resolution
from mmpretrain_mobileone_ext.coreml.runtime.engine.chips import CHIPS, find_chip
from mmpretrain_mobileone_ext.errors import MobileOneExtError, SpecError

A14 = CHIPS['A14']


@pytest.fixture(scope='module')
def networks():
    return read_features(LAYERS)


@pytest.fixture(scope='module')
def qualities(networks):
    return {q.form: q for q in evaluate(networks)}


@pytest.fixture(scope='module')
def samples(networks):
    known = published().ms
    return [
        Sample(n, count(networks[n]), ms, has_attention(networks[n])) for n, ms in known.items()
    ]


def conv(cin=64, cout=64, side=56, kernel=3, stride=1, groups=1, **more):
    """A convolution as a layer."""
    made = (1, cout, side // stride, side // stride)
    weights = cout * (cin // groups) * kernel**2
    return Layer(
        'c',
        'conv',
        'depthwise' if groups == cin > 1 else 'conv',
        ((1, cin, side, side),),
        (made,),
        (-1,),
        math.prod(made[2:]) * weights,
        weights,
        kernel=(kernel, kernel),
        stride=(stride, stride),
        groups=groups,
        **more,
    )


def test_what_was_published_is_what_the_paper_prints():
    facts = published()
    assert (facts.device, facts.chip, len(facts.ms)) == ('iPhone 12', 'A14', 15)
    assert [facts.ms[f'mobileone-s{i}'] for i in range(5)] == [0.79, 0.89, 1.18, 1.53, 1.86]
    assert list(facts.thirty_layers.values()) == [1.53, 1.63, 2.10, 2.54]
    assert set(facts.tables.values()) == {'7', '9'}


def test_the_chosen_form_beats_both_baselines_on_both(qualities):
    chosen = qualities[CHOSEN]
    assert len(chosen.measured) >= 14
    assert chosen.spearman >= 0.9
    assert chosen.median_error <= 0.2
    for name in ('flops', 'params'):
        assert qualities[name].spearman < chosen.spearman
        assert qualities[name].median_error > chosen.median_error
    assert len(FORMS[CHOSEN].parameters) <= 4
    assert sum(not form.is_baseline for form in FORMS.values()) >= 3


def test_orders_that_were_published_are_kept(qualities, networks):
    chosen = qualities[CHOSEN]
    variants = [chosen.predicted[f'mobileone-s{i}'] for i in range(5)]
    assert variants == sorted(variants)
    for each in thirty(networks, chosen).values():
        times = list(each.values())
        assert all(a < b for a, b in zip(times, times[1:])), each


def test_the_packages_parameters_are_those_of_its_file(qualities, networks):
    ours, again = fitted_model(), fitted(networks, qualities[CHOSEN])
    assert again.values == pytest.approx(ours.values, rel=1e-3)
    assert again.bar == pytest.approx(ours.bar, rel=1e-3)
    assert (again.form_name, again.networks) == (ours.form_name, ours.networks)


@pytest.mark.parametrize('name', FORMS)
def test_parameters_are_positive_and_layers_add_up(name, qualities, samples):
    form, values = FORMS[name], qualities[name].values
    assert all(v > 0 for v in values.values())
    assert list(values) == [p.name for p in form.parameters]
    for s in samples:
        each = form.layer_ms(s.counted, values)
        assert (each >= 0).all()
        total = form.total_ms(s.counted, values)
        assert total == pytest.approx(values['floor'] + sum(map(float, each)))


def test_left_out_means_left_out(samples):
    """Against the loop written out, and against a latency that nobody could predict."""
    form = FORMS['roofline']
    few = [s for s in samples if not s.has_attention][:6]
    found = leave_one_out(form, few)
    for s in few:
        values = fit(form, [other for other in few if other.name != s.name])
        assert found.predicted[s.name] == pytest.approx(form.total_ms(s.counted, values))
    wild = [replace(few[0], ms=50.0), *few[1:]]
    assert leave_one_out(form, wild).predicted[few[0].name] == pytest.approx(
        found.predicted[few[0].name]
    )


def test_attention_is_predicted_and_fits_nothing(samples, qualities):
    form = FORMS[CHOSEN]
    (vit,) = (s for s in samples if s.has_attention)
    without = fit(form, [s for s in samples if s is not vit])
    assert qualities[CHOSEN].values == pytest.approx(without)
    assert qualities[CHOSEN].predicted[vit.name] == pytest.approx(
        form.total_ms(vit.counted, without)
    )


def test_the_fit_finds_made_up_parameters(samples):
    """Latencies that the form itself made are explained by the parameters that made them."""
    form = FORMS[CHOSEN]
    truth = {'floor': 0.3, 'rate': 1000.0, 'bandwidth': 20.0, 'maps': 80.0}
    made = [replace(s, ms=form.total_ms(s.counted, truth)) for s in samples]
    assert fit(form, made) == pytest.approx(truth, rel=1e-3)
    assert leave_one_out(form, made).median_error < 1e-3


def test_the_bar_is_the_conformal_one(qualities, networks):
    quality = qualities[CHOSEN]
    names = [n for n in quality.measured if not has_attention(networks[n])]
    bar = bar_of(quality, names)
    logs = [abs(math.log(quality.predicted[n] / quality.measured[n])) for n in names]
    assert len(logs) == 14
    assert sum(x <= bar + 1e-12 for x in logs) == 12  # ceil(0.8 * 15)


def test_errors_and_ranks_by_hand(qualities):
    quality = qualities['flops']
    pairs = [(quality.predicted[n], ms) for n, ms in quality.measured.items()]
    assert quality.median_error == pytest.approx(np.median([abs(p / m - 1) for p, m in pairs]))
    ranks = [np.argsort(np.argsort([pair[i] for pair in pairs])) for i in (0, 1)]
    assert quality.spearman == pytest.approx(np.corrcoef(*ranks)[0, 1])


@pytest.mark.parametrize('name', ['mobileone-s0', 'mobileone-s4', 'mobilenet-v3-large', 'mixnet-s'])
def test_larger_images_take_longer(name, networks):
    estimate = Estimator(fitted_model(), A14)
    times = [
        estimate([at_resolution(layer, factor) for layer in networks[name]]).ms
        for factor in (0.25, 0.5, 1, 2)
    ]
    assert times == sorted(times)
    assert times[0] < times[-1]
    same = [at_resolution(layer, 1) for layer in networks[name]]
    assert same == list(networks[name])


@pytest.mark.parametrize('kernel', [1, 3])
def test_wider_layers_take_longer(kernel):
    estimate = Estimator(fitted_model(), A14)
    times = [estimate([conv(w, w, kernel=kernel)]).ms for w in (16, 64, 256, 512)]
    assert times == sorted(set(times))


def test_products_are_those_of_the_engine():
    assert products(conv()) == pytest.approx(conv().macs / 2.25)
    assert products(conv(stride=2)) == conv(stride=2).macs
    assert products(conv(kernel=1)) == conv(kernel=1).macs
    assert products(conv(groups=64)) == conv(groups=64).macs
    odd = conv(cout=58, kernel=1)
    assert products(odd) == pytest.approx(odd.macs * 60 / 58)
    assert products(odd, CHIPS['M5']) == pytest.approx(odd.macs * 64 / 58)


def test_an_estimate_adds_up_and_says_how_far_to_believe_it(networks):
    found = Estimator(fitted_model(), A14)(networks['mobileone-s1'])
    assert found.floor_ms + sum(found.layers_ms) == pytest.approx(found.ms)
    assert sum(found.parts.values()) == pytest.approx(found.ms)
    assert found.low < found.ms < found.high
    assert found.high / found.ms == pytest.approx(math.exp(fitted_model().bar))
    assert found.label == PREDICTED
    assert found.words() == f'{found.ms:.2f} ms ({found.low:.2f} to {found.high:.2f}), predicted'
    vit = Estimator(fitted_model(), A14)(networks['mobilevit-s'])
    assert (vit.label, vit.low, vit.high) == (ORDER, None, None)
    assert 'attention' in vit.notes[0]
    assert 'order only' in vit.words()
    with pytest.raises(SpecError, match='without operations'):
        Estimator(fitted_model(), A14)([])


def test_other_chips_have_wider_bounds_or_none(networks):
    layers = networks['mobileone-s2']
    a14, a15, m2_pro = (
        Estimator(fitted_model(), CHIPS[n])(layers) for n in ('A14', 'A15', 'M2 Pro')
    )
    assert a15.label == m2_pro.label == NOT_FITTED
    # From as slow as an A14 to as fast as the fastest clock that was measured.
    assert a15.high == pytest.approx(a14.high)
    assert a15.low == pytest.approx(a14.low / (1.89 / 1.14))
    assert a15.low < a15.ms < a14.ms
    # Twice the cores, the same floor.
    assert m2_pro.floor_ms == a15.floor_ms
    assert sum(m2_pro.layers_ms) == pytest.approx(sum(a15.layers_ms) / 2)
    for chip in CHIPS.values():
        found = Estimator(fitted_model(), chip)(layers)
        if chip.engine.startswith(('H12', 'H13')):
            assert (found.label, found.low, found.high) == (ORDER, None, None)
            assert "beside the A14's" in found.notes[0]
        elif chip != A14:
            assert found.high / found.low > 1.5 * a14.high / a14.low


def bench(sample, ms):
    return replace(sample, ms=ms)


def test_one_benchmark_scales_everything(samples):
    model = fitted_model()
    s = samples[0]
    before = model.form.total_ms(s.counted, model.values)
    found = calibrate(model, [bench(s, 2 * before)], 'iPhone15,2')
    for other in samples:
        assert found.model.form.total_ms(other.counted, found.model.values) == pytest.approx(
            2 * model.form.total_ms(other.counted, model.values), rel=1e-4
        )
    assert found.words.startswith(
        'calibrated to iPhone15,2 by 1 network: one scale of 2.00; so few'
    )
    assert 'bounds are at least those of the iPhone 12' in found.words
    assert found.model.is_calibrated
    assert Estimator(found.model, find_chip('A17'))._speed == (1, 1)


def test_some_benchmarks_fit_floor_and_scale(samples):
    model = fitted_model()
    floor = model.values['floor']
    made = [
        bench(s, 0.2 + 0.5 * (model.form.total_ms(s.counted, model.values) - floor))
        for s in samples[:3]
    ]
    found = calibrate(model, made, 'iPhone15,2')
    assert found.model.values['floor'] == pytest.approx(0.2, rel=1e-3)
    for name in ('rate', 'bandwidth', 'maps'):
        assert found.model.values[name] == pytest.approx(2 * model.values[name], rel=1e-3)
    assert 'floor of 0.20 ms and scale of 0.50 for all layers' in found.words


def test_many_benchmarks_recover_all_parameters(samples):
    model = fitted_model()
    truth = {'floor': 0.25, 'rate': 3000.0, 'bandwidth': 60.0, 'maps': 150.0}
    # Files in several folders, each with the same name.
    made = [bench(s, model.form.total_ms(s.counted, truth)) for s in samples]
    made = [replace(s, name='bench.json') for s in made]
    found = calibrate(model, made, 'iPhone15,2')
    assert found.model.values == pytest.approx(truth, rel=1e-3)
    assert found.model.bar < 1e-3
    assert 'all 4 parameters fitted' in found.words
    wild = [replace(s, ms=s.ms * (1 + i % 2)) for i, s in enumerate(made)]
    named = [replace(s, name=str(i)) for i, s in enumerate(wild)]
    bars = [calibrate(model, given, 'iPhone15,2').model.bar for given in (wild, named)]
    assert bars[0] == bars[1] > 0.1


def test_attention_calibrates_nothing(samples):
    vit = [s for s in samples if s.has_attention]
    with pytest.raises(SpecError, match='nothing to calibrate with'):
        calibrate(fitted_model(), vit, 'iPhone15,2')


def test_too_few_latencies_fit_nothing(samples):
    with pytest.raises(SpecError, match='3 latencies for the 4 parameters'):
        fit(FORMS[CHOSEN], samples[:3])


@pytest.mark.parametrize('content', [b'', b'{}', b'\x1f\x8b broken'])
def test_a_broken_file_of_layers_is_one_line(content, tmp_path):
    path = Path(tmp_path / 'layers.json.gz')
    path.write_bytes(content)
    with pytest.raises(MobileOneExtError, match='no file of --write-features') as caught:
        read_features(path)
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize(
    ('layer', 'waits'),
    [
        (conv(512, 512, 112, 3), 'products'),
        (conv(512, 512, 7, 1), 'memory'),
        (conv(64, 64, 112, 3, groups=64), 'maps on the chip'),
        (conv(128, 128, 112, 3, groups=128), 'memory'),  # a map above 2 MiB
    ],
)
def test_what_a_layer_waits_for(layer, waits):
    found = Estimator(fitted_model(), A14)([layer])
    assert found.waits == (waits,)
    assert found.parts[waits] == found.layers_ms[0]


def test_without_scipy_estimates_work_and_fits_say_what_to_install(samples, monkeypatch):
    for name in ('scipy', 'scipy.optimize', 'scipy.stats'):
        monkeypatch.setitem(sys.modules, name, None)
    assert Estimator(fitted_model(), A14)([conv()]).ms > 0
    with pytest.raises(SpecError, match=r"pip install 'scipy>=1\.9'"):
        fit(FORMS[CHOSEN], samples)
