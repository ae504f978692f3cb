"""Recurrent layers against torch and, for Core ML's own, Apple's formula."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from crafted_kit import Crafted
from runtime_kit import check, noise, save_mil
from torch import nn

from mmpretrain_mobileone_ext.coreml import load_program
from mmpretrain_mobileone_ext.coreml.runtime.ops import OPS
from mmpretrain_mobileone_ext.errors import ProgramError

S, B, C, H = 5, 3, 4, 2


def layer(kind, both=False):
    torch.manual_seed(3)
    return kind(C, H, bidirectional=both)


def ifoz(value):
    i, f, z, o = value.detach().chunk(4)
    return torch.cat([i, f, o, z])


def lstm_weights(net, back=''):
    """torch's weights under MIL's names and in its order."""
    ours, theirs = ('_back', '_reverse') if back else ('', '')
    get = {name: ifoz(value) for name, value in net.named_parameters()}
    return {
        f'weight_ih{ours}': get[f'weight_ih_l0{theirs}'],
        f'weight_hh{ours}': get[f'weight_hh_l0{theirs}'],
        f'bias{ours}': get[f'bias_ih_l0{theirs}'] + get[f'bias_hh_l0{theirs}'],
    }


def states(directions, *shape):
    """torch's (D, b, H) and MIL's (b, D H)."""
    value = torch.randn(directions, *shape, H)
    return value, torch.cat(list(value), -1)


@pytest.mark.parametrize('sequence', [True, False])
@pytest.mark.parametrize('direction', ['forward', 'reverse', 'bidirectional'])
@torch.no_grad()
def test_lstm_is_that_of_torch(direction, sequence):
    both = direction == 'bidirectional'
    net, x = layer(nn.LSTM, both), torch.randn(S, B, C)
    (h0, h), (c0, c) = states(1 + both, B), states(1 + both, B)
    given = x.flip(0) if direction == 'reverse' else x
    out, (last_h, last_c) = net(given, (h0, c0))
    weights = lstm_weights(net)
    if both:
        weights.update(lstm_weights(net, 'back'))
    found = OPS['lstm'](x, h, c, direction=direction, output_sequence=sequence, **weights)
    last = torch.cat(list(last_h), -1)
    wanted = out if sequence else last.unsqueeze(0)
    torch.testing.assert_close(found[0], wanted)
    torch.testing.assert_close(found[1], last)
    torch.testing.assert_close(found[2], torch.cat(list(last_c), -1))


def test_lstm_with_peepholes_and_a_bound():
    """The bound is of c, and o looks at the new one."""
    rng = np.random.default_rng(0)
    shapes = dict(weight_ih=(4 * H, C), weight_hh=(4 * H, H), bias=(4 * H,), peephole=(3 * H,))
    w = {k: rng.normal(size=v) for k, v in shapes.items()}
    x = rng.normal(size=(S, B, C)) * 3
    h = c = np.zeros((B, H))

    def hard(v):
        return np.clip(0.2 * v + 0.5, 0, 1)

    p_i, p_f, p_o = np.split(w['peephole'], 3)
    wanted = []
    for step in x:
        i, f, o, z = np.split(step @ w['weight_ih'].T + w['bias'] + h @ w['weight_hh'].T, 4, -1)
        c = np.clip(hard(f + p_f * c) * c + hard(i + p_i * c) * np.maximum(z, 0), -0.4, 0.4)
        h = hard(o + p_o * c) * c
        wanted.append(h)
    zero = torch.zeros(B, H)
    found = OPS['lstm'](
        torch.tensor(x).float(),
        zero,
        zero,
        **{k: torch.tensor(v).float() for k, v in w.items()},
        output_sequence=True,
        recurrent_activation='hard_sigmoid',
        cell_activation='relu',
        activation='linear',
        clip=0.4,
    )
    check(found[0].numpy(), np.stack(wanted), 1e-5)


@torch.no_grad()
def test_gru_that_resets_after_is_that_of_torch():
    net, x = layer(nn.GRU), torch.randn(S, B, C)
    h0, h = states(1, B)

    def roz(value):
        r, z, o = value.chunk(3)
        return torch.cat([r, o, z])

    out, last = net(x, h0)
    found = OPS['gru'](
        x,
        h,
        roz(net.weight_ih_l0),
        roz(net.weight_hh_l0),
        roz(net.bias_hh_l0),
        output_sequence=True,
        reset_after=True,
        input_bias=roz(net.bias_ih_l0),
    )
    torch.testing.assert_close(found[0], out)
    torch.testing.assert_close(found[1], last[0])


@pytest.mark.parametrize('direction', ['forward', 'reverse'])
def test_gru_resets_before(direction):
    """As Apple's tests, which ran on a device, have it."""
    rng = np.random.default_rng(1)
    ih, hh, bias = (rng.normal(size=s) for s in ((3 * H, C), (3 * H, H), (3 * H,)))
    x, h = rng.normal(size=(S, B, C)), rng.normal(size=(B, H))
    start, wanted = h, []

    def sigmoid(v):
        return 1 / (1 + np.exp(-v))

    for step in x if direction == 'forward' else x[::-1]:
        i_r, i_o, i_z = np.split(step @ ih.T + bias, 3, -1)
        hh_r, hh_o, hh_z = np.split(hh, 3)
        r, z = sigmoid(i_r + h @ hh_r.T), sigmoid(i_z + h @ hh_z.T)
        h = (1 - z) * np.tanh(i_o + (r * h) @ hh_o.T) + z * h
        wanted.append(h)
    arguments = [torch.tensor(v).float() for v in (x, start, ih, hh, bias)]
    out, last = OPS['gru'](*arguments, direction, True)
    check(out.numpy(), np.stack(wanted), 1e-5)
    check(last.numpy(), wanted[-1], 1e-5)
    short, _ = OPS['gru'](*arguments, direction)
    check(short.numpy(), wanted[-1][None], 1e-5)


@pytest.mark.parametrize('activation', ['tanh', 'relu'])
@torch.no_grad()
def test_rnn_is_that_of_torch(activation):
    torch.manual_seed(0)
    net = nn.RNN(C, H, nonlinearity=activation)
    x, (h0, h) = torch.randn(S, B, C), states(1, B)
    out, last = net(x, h0)
    found = OPS['rnn'](
        x,
        h,
        net.weight_ih_l0,
        net.weight_hh_l0,
        net.bias_ih_l0 + net.bias_hh_l0,
        output_sequence=True,
        activation=activation,
    )
    torch.testing.assert_close(found[0], out)
    torch.testing.assert_close(found[1], last[0])


def test_saved_program(tmp_path):
    """All three from disk, one sample and a batch."""
    net = layer(nn.LSTM)
    weights = {k: v.numpy() for k, v in lstm_weights(net).items()}
    gru = {'weight_ih': noise(3 * H, H), 'weight_hh': noise(3 * H, H)}
    rnn = {'weight_ih': noise(H, H), 'weight_hh': noise(H, H), 'bias': noise(H)}
    zero = np.zeros((1, H), np.float32)

    def build(mb, x):
        out, h, c = mb.lstm(x=x, initial_h=zero, initial_c=zero, output_sequence=True, **weights)
        out, h = mb.gru(x=out, initial_h=h, output_sequence=True, **gru)
        return [*mb.rnn(x=out, initial_h=h, activation='linear', **rnn), c]

    x = noise(S, 1, C)
    loaded = load_program(save_mil(build, {'x': x}, tmp_path))
    got = list(loaded.predict({'x': x}).values())
    with torch.no_grad():
        out, (h, c) = net(torch.tensor(x))
    assert [v.shape for v in got] == [(1, 1, H), (1, H), (1, H)]
    check(got[2], c[0], 1e-5)
    out, h = OPS['gru'](out, h[0], *map(torch.tensor, gru.values()), output_sequence=True)
    h = h.numpy()
    for step in out.numpy():
        h = step @ rnn['weight_ih'].T + h @ rnn['weight_hh'].T + rnn['bias']
    check(got[1], h, 1e-5)
    batch = loaded.predict_batch({'x': torch.tensor(np.stack([x * 2, x]))})
    for found, one in zip(batch.values(), got):
        check(found[1].numpy().reshape(one.shape), one, 1e-5)


def test_what_is_unknown():
    zero = torch.zeros(1, 1)
    with pytest.raises(ProgramError, match=r"'softmax'.*tanh"):
        OPS['rnn'](zero[None], zero, zero, zero, activation='softmax')
    with pytest.raises(ProgramError, match=r"'sideways'.*forward"):
        OPS['gru'](zero[None], zero, zero.expand(3, 1), zero.expand(3, 1), direction='sideways')
    with pytest.raises(ProgramError, match='both ways'):
        OPS['lstm'](
            zero[None], zero, zero, zero.expand(4, 1), zero.expand(4, 1), direction='bidirectional'
        )


def test_a_long_sequence_is_refused(tmp_path):
    """Each step takes time, however little there is to compute."""
    c = Crafted(x=(10**6, 1, 1))
    one = np.ones((1, 1), np.float32)
    c.op('rnn', 'y', (1, 1, 1), x='x', initial_h=one, weight_ih=one, weight_hh=one)
    path = c.save(tmp_path)
    with pytest.raises(ProgramError, match=r"'rnn'.*work_budget"):
        load_program(path, work_budget=1e9)
