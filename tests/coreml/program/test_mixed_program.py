"""A program mixed from two files predicts as the converted one, to the bit."""

import pytest
import torch
from export_kit import build
from precision_kit import Case
from runtime_kit import image_input, randomize, save_torch
from torch import nn
from torch.nn import functional as F

from mmpretrain_mobileone_ext.coreml.program import quiet
from mmpretrain_mobileone_ext.coreml.program.graph import sources
from mmpretrain_mobileone_ext.coreml.program.mixed import match
from mmpretrain_mobileone_ext.coreml.program.read import read_program
from mmpretrain_mobileone_ext.coreml.runtime.load import ReferenceProgram
from mmpretrain_mobileone_ext.errors import ExportError


class Various(nn.Module):
    """Operations that coremltools fuses, makes anew or names by number."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, 2)
        self.point = nn.Conv2d(4, 4, 1)
        self.norm = nn.LayerNorm(4, eps=1e-9)
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        x = F.silu(self.conv(x / 64))
        y = F.hardswish(self.point(x))
        x = torch.cat([x, y], 1)
        x = x.view(-1, 2, 4, 6, 6).transpose(1, 2).reshape(-1, 8, 6, 6)
        x = x.clamp(0, 6).mean((2, 3))
        x = F.gelu(self.norm(x[:, :4]) + x[:, 4:])
        return self.head(x / (1e-3 + x.norm(dim=1, keepdim=True)))


class Files:
    """Conversions of one network with some operations in fp32."""

    def __init__(self, folder, target='iOS16'):
        torch.manual_seed(0)
        self.net, self.folder = randomize(Various().eval()), folder
        self.target, self.asked, self.count = target, set(), 0

    def save(self, keep):
        ct = quiet.coremltools()

        def in_half(op):
            self.asked.add(op.name)
            return op.name not in keep

        self.count += 1
        return save_torch(
            self.net,
            self.folder,
            torch.rand(1, 3, 13, 13),
            str(self.count),
            inputs=[image_input((1, 3, 13, 13))],
            compute_precision=ct.transform.FP16ComputePrecision(in_half),
            minimum_deployment_target=ct.target[self.target],
        )


def outputs(program, pixels):
    run = ReferenceProgram(program, 'fp16', False, torch.device('cpu'))
    (result,) = run.predict_batch({'image': pixels}).values()
    return result


@pytest.fixture(scope='module', params=['iOS15', 'iOS17'])
def files(request, tmp_path_factory):
    made = Files(tmp_path_factory.mktemp('mixed'), request.param)
    made.half = read_program(made.save(()))
    made.whole = read_program(made.save(made.asked))
    return made, match(made.half, made.whole, made.asked)


PIXELS = torch.randint(0, 256, (3, 3, 13, 13), generator=torch.Generator().manual_seed(1)).float()


def test_every_operation_can_be_chosen(files):
    _, twins = files
    types = [op.type for op in twins.whole.operations if op.type != 'cast']
    assert set(types) > {'silu', 'transpose', 'concat', 'layer_norm', 'gelu'}
    assert len(twins.halves) == len(types)


def test_mixed_programs_equal_converted_ones(files):
    made, twins = files
    names = list(twins.halves)
    sets = [
        names[::2],
        [n for n in names if twins.halves[n].type in ('transpose', 'concat', 'linear', 'silu')],
    ]
    cases = [([], made.half), (names, made.whole)]
    cases += [(keep, read_program(made.save(twins.keep_argument(keep)))) for keep in sets]
    found = []
    for keep, real in cases:
        mixed = twins.mixed(keep)
        found.append(outputs(mixed, PIXELS))
        assert torch.equal(found[-1], outputs(real, PIXELS)), keep
        halves = {
            twins.find(op) for op in real.operations if op.type != 'cast' and 'fp16' in op.dtypes
        }
        assert halves == set(names) - set(keep)
    # Were what is kept of no effect, all would be the same.
    assert len({tuple(f.flatten().tolist()) for f in found}) > 2


def test_who_reads_from_whom(files):
    _, twins = files
    names = {op.type: n for n, op in twins.halves.items()}
    assert twins.readers(names['silu']) == [
        n
        for n, op in twins.halves.items()
        if op.type == 'concat' or (op.type == 'conv' and names['silu'] in twins.origins(n))
    ]
    assert names['transpose'] in twins.readers(twins.origins(names['transpose'])[0])
    assert len(twins.readers(names['silu'])) == 2


def test_mixed_programs_read_only_what_exists(files):
    _, twins = files
    for keep in ([], list(twins.halves)[:5], list(twins.halves)):
        known = {f.name for f in twins.whole.inputs}
        for op in twins.mixed(keep).operations:
            assert known.issuperset(sources(op))
            known.update(op.outputs)


def test_files_of_different_networks_are_refused(files, tmp_path):
    made, twins = files
    case = Case(build(), tmp_path)
    other = read_program(case.convert(frozenset()))
    with pytest.raises(ExportError, match='give precision fp16 or fp32'):
        match(other, twins.whole, made.asked)
    shorter = twins.mixed([])
    operations = (*shorter.operations, *other.operations[:3])
    object.__setattr__(shorter, 'operations', operations)
    with pytest.raises(ExportError, match='operations and the fp32 program'):
        match(shorter, twins.whole, made.asked)
