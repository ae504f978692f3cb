"""Whose weights are they: answered from names alone."""

import pytest
from apple_kit import AppleMobileOne

from mmpretrain_mobileone_ext.models.loading.state_dict import (
    APPLE,
    BACKBONE,
    MMPRETRAIN,
    TIMM,
    recognize,
    recognize_any,
    translate,
)

SAME = [
    (
        'backbone.stage0.branch_scale.conv.weight',
        'stage0.rbr_scale.conv.weight',
        'stem.conv_scale.conv.weight',
    ),
    (
        'backbone.stage3.19.branch_conv_list.2.norm.running_var',
        'stage3.19.rbr_conv.2.bn.running_var',
        'stages.2.19.conv_kxk.2.bn.running_var',
    ),
    ('backbone.stage1.2.branch_norm.bias', 'stage1.2.rbr_skip.bias', 'stages.0.2.identity.bias'),
    (
        'backbone.stage4.1.branch_reparam.bias',
        'stage4.1.reparam_conv.bias',
        'stages.3.1.reparam_conv.bias',
    ),
    (
        'backbone.stage4.0.se.conv1.conv.weight',
        'stage4.0.se.reduce.weight',
        'stages.3.0.attn.fc1.weight',
    ),
    ('backbone.stage4.0.se.conv2.conv.bias', 'stage4.0.se.expand.bias', 'stages.3.0.attn.fc2.bias'),
    ('head.fc.weight', 'linear.weight', 'head.fc.weight'),
]
LAYOUTS = (MMPRETRAIN, APPLE, TIMM)


@pytest.mark.parametrize('names', SAME, ids=lambda n: n[0])
def test_each_name_is_read_and_written_by_each_layout(names):
    for source, name in zip(LAYOUTS, names):
        at = source.read(name)
        assert at is not None
        assert [layout.write(at) for layout in LAYOUTS] == list(names)


@pytest.mark.parametrize(
    'name',
    [
        'stages.0.0.conv_kxk.conv.weight',
        'stages.0.0.conv_1x1.conv.weight',
        'stage0.rbr_conv.conv.weight',
        'layer1.0.conv1.weight',
        'weight',
        'stage0.rbr_dense.conv.weight',
        'stages.0.blocks.0.attn.qkv.weight',
    ],
)
def test_other_networks_are_not_recognized(name):
    assert recognize([name, 'head.fc.weight', 'linear.bias']) is None


def test_form_head_and_prefix_are_told():
    found = recognize(['module.stage0.rbr_skip.weight'])
    assert (found.layout, found.prefix) == (APPLE, 'module.')
    assert not found.folded
    assert not found.has_head
    found = recognize(['stem.reparam_conv.weight', 'head.fc.bias'])
    assert found.summary == 'timm MobileOne (folded, with head)'


def test_our_own_names_are_not_touched_on_load():
    ours = [names[0] for names in SAME]
    assert recognize(ours) is None
    assert recognize_any(ours).layout == MMPRETRAIN
    bare = [n[len('backbone.') :] for n in ours[:-1]]
    assert recognize_any(bare).layout == BACKBONE


def test_names_that_nobody_knows_stay():
    found = recognize(['stage0.rbr_skip.weight'])
    state = {'stage0.rbr_skip.weight': 1, 'stage0.other.weight': 2}
    assert translate(state, found, MMPRETRAIN) == {
        'backbone.stage0.branch_norm.weight': 1,
        'stage0.other.weight': 2,
    }


def test_every_name_of_the_network_is_known():
    names = list(AppleMobileOne('s0').state_dict())
    found = recognize(names)
    there = translate(dict.fromkeys(names), found, MMPRETRAIN)
    back = translate(there, recognize_any(there), APPLE)
    assert list(back) == names
    assert all(n.startswith(('backbone.stage', 'head.fc.')) for n in there)
