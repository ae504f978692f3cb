"""Which operation runs on which engine: appendix A of the guide, retyped.

A mark says what its author saw or read; what it means for a program that Core ML compiles is
:class:`Row`'s. Operations that MIL has and the table lacks are unknown, which is no yes.
"""

from __future__ import annotations

from typing import NamedTuple

from ..runtime.engine.chips import MEASURED, PREDICTED, UNKNOWN, Chip, weakest

#: The table's words. Native: compiled and run by itself. Bridge: taken apart, in software, or
#: within another operation. Gated: not yet on this generation. No path: on none.
NATIVE, BRIDGE, GATED, NO_PATH = 'native', 'bridge', 'family-gated', 'no path'
_MARKS = {'n': NATIVE, 'b': BRIDGE, 'g': GATED, '-': NO_PATH}
_COLUMNS = ('A13', 'A14', 'A15', 'A16')
#: Columns that the author measured, on M1, M2 and M5.
_MEASURED = ('A13', 'A14', 'A16')

#: By marks on A13, A14, A15, and A16 and later. Names are those of MIL.
_TABLE: dict[str, str] = {
    # Convolution, product, pooling.
    'nnnn convolution': """
        conv conv_transpose linear linear_activation matmul einsum avg_pool max_pool l2_pool
        scaled_dot_product_attention""",
    'nnnn norm': 'batch_norm layer_norm instance_norm l2_norm local_response_norm',
    'nnnn elementwise': """
        abs add sub mul real_div floor_div pow square sqrt rsqrt inverse maximum minimum cumsum""",
    'nnnn comparison': """
        equal not_equal greater greater_equal less less_equal logical_not select""",
    'nnnn activation': """
        relu relu6 leaky_relu prelu clamped_relu thresholded_relu threshold clip elu sigmoid
        sigmoid_hard tanh scaled_tanh gelu silu softmax softplus softplus_parametric softsign erf
        exp exp2 log sign ceil floor round""",
    'nnnn reduction': """
        reduce_sum reduce_mean reduce_max reduce_min reduce_sum_square reduce_l1_norm
        reduce_l2_norm reduce_log_sum reduce_log_sum_exp reduce_argmax""",
    'nnnn movement': """
        reshape reshape_like expand_dims squeeze flatten2d transpose concat split stack pad
        slice_by_size slice_update reverse tile gather gather_along_axis depth_to_space
        space_to_depth pixel_shuffle pixel_unshuffle space_to_batch batch_to_space identity fill
        fill_like crop""",
    'nnnn dtype': """
        cast quantize dequantize constexpr_lut_to_dense constexpr_sparse_to_dense""",
    'nnnn state': 'read_state write_state',
    'nnnn math': 'atan',
    # From the A14: the engine that samples images, ranks and sorts.
    'bnnn movement': 'gather_nd',
    'bnnn image': """
        resize resize_bilinear resize_nearest_neighbor upsample_bilinear
        upsample_nearest_neighbor""",
    'gnnn image': 'crop_resize resample affine',
    'gnnn ranking': 'topk argsort',
    # From the A15.
    'ggnn math': 'sin cos',
    'bbnn reduction': 'reduce_argmin',
    'bbnn random': 'random_uniform',
    'bbnn dtype': 'constexpr_blockwise_shift_scale constexpr_sparse_blockwise_shift_scale',
    # On none by itself.
    'bbbb movement': 'slice_by_index range_1d',
    'bbbb dtype': 'const constexpr_affine_dequantize constexpr_lut_to_sparse',
    'bbbb control': 'cond while_loop call',
    'bbbb detection': 'non_maximum_suppression',
    '---- elementwise': 'mod',
    '---- comparison': 'logical_and logical_or logical_xor',
    '---- reduction': 'reduce_prod',
    '---- movement': """
        reverse_sequence scatter scatter_along_axis scatter_nd band_part non_zero one_hot shape
        sliding_windows""",
    '---- dtype': 'constexpr_cast',
    '---- recurrent': 'gru lstm rnn',
    '---- math': 'tan asin acos atanh asinh acosh sinh cosh',
    '---- random': 'random_bernoulli random_categorical random_normal',
    '---- list': 'list_gather list_length list_read list_scatter list_write make_list',
}
#: What the reader of a ``neuralnetwork`` calls otherwise than MIL.
_ALIASES = {'slice_axis': 'slice_by_size'}
#: Bridges that are built inside of a program: the route that the compiler takes.
_ROUTES = {
    'slice_by_index': '',
    'resize': 'in software on this generation, with other rounding',
    'resize_bilinear': 'in software on this generation, with other rounding',
    'resize_nearest_neighbor': 'in software on this generation, with other rounding',
    'upsample_bilinear': 'in software on this generation, with other rounding',
    'upsample_nearest_neighbor': 'in software on this generation, with other rounding',
}
#: What the reason adds to the mark.
_WHY = {
    'cumsum': "only on a route of the guide's own, not in what Core ML compiles",
    'gather_nd': 'its software form takes a batch and depth of one only',
    'range_1d': 'the compiler has no code for it',
    'cond': 'the engine has no control flow',
    'while_loop': 'the engine has no control flow',
    'call': 'the engine has no control flow',
    'non_maximum_suppression': 'it needs the CPU or the GPU',
    'random_uniform': 'the hardware generator comes with the A15',
    'reduce_argmin': 'what Core ML compiles has it from the A15',
    'shape': 'sizes are fixed when the engine compiles',
    'non_zero': 'the size of its result depends on values',
}
#: What to write instead, where the guide or plain arithmetic names something.
_INSTEAD = {
    'mod': 'x - y * floor(x / y)',
    'logical_and': 'minimum, or mul, of numbers',
    'logical_or': 'maximum of numbers',
    'logical_xor': 'not_equal',
    'reduce_prod': 'exp of reduce_sum of log, for positive values',
    'reduce_argmin': 'reduce_argmax of -x',
    'one_hot': 'gather from an identity matrix, or compare with fixed numbers',
    'range_1d': 'a constant',
    'shape': 'fixed input sizes, so that shapes are constants',
    'band_part': 'mul by a constant mask',
    'scatter': 'concat of slices, or mul by masks and add',
    'scatter_along_axis': 'concat of slices, or mul by masks and add',
    'scatter_nd': 'concat of slices, or mul by masks and add',
    'sliding_windows': 'a convolution with fixed one-hot weights',
    'reverse_sequence': 'reverse, with sequences of one length',
    'cumsum': 'matmul with a constant triangular matrix of ones',
    'gru': 'unrolled steps of linear, sigmoid and tanh',
    'lstm': 'unrolled steps of linear, sigmoid and tanh',
    'rnn': 'unrolled steps of linear and tanh',
    'tan': 'sin / cos',
    'sin': 'a polynomial, or a table that is looked up outside',
    'cos': 'a polynomial, or a table that is looked up outside',
    'sinh': '(exp(x) - exp(-x)) / 2',
    'cosh': '(exp(x) + exp(-x)) / 2',
    'resample': 'a fixed resampling as matmul with constants, or resampling before the network',
    'affine': 'warping before the network',
    'crop_resize': 'cropping before the network, or slices and resize',
    'topk': 'sorting the scores in the app',
    'argsort': 'sorting the scores in the app',
    'non_maximum_suppression': 'suppression in the app, after the network',
    'cond': 'both branches and select',
    'while_loop': 'unrolled steps',
    'gather_nd': 'slices and concat, where the indices are fixed',
    'random_uniform': 'random numbers as an input',
    'random_bernoulli': 'random numbers as an input',
    'random_categorical': 'random numbers as an input',
    'random_normal': 'random numbers as an input',
    'non_zero': 'mul by a mask, which keeps the size',
}
#: ch. 35: of what it lists, what engines before the A13 have by themselves, and what came with it.
_FLOORS = {
    'before A13': """
        conv conv_transpose matmul linear avg_pool max_pool l2_pool abs add sub mul maximum minimum
        transpose concat sigmoid tanh relu gelu silu quantize dequantize""",
    'A13': """
        softmax layer_norm instance_norm batch_norm reduce_sum reduce_mean reduce_max reduce_min
        scaled_dot_product_attention erf exp2 rsqrt sqrt tile space_to_depth real_div reshape
        expand_dims squeeze""",
}


class Row(NamedTuple):
    """What the table says of an operation on a chip.

    Attributes:
        mark: the cell, '' if the table has no such operation.
        runs: whether a program that Core ML compiles has it on the engine.
        why: it does not, or how it does where that is by a detour; '' for nothing to say.
        instead: what to write instead, '' where nothing is known or needed.
        label: how it is known.
    """

    mark: str
    runs: bool
    why: str
    instead: str
    label: str


def _entries() -> dict[str, tuple[str, str]]:
    found: dict[str, tuple[str, str]] = {}
    for key, names in _TABLE.items():
        marks, _, theme = key.partition(' ')
        found.update(dict.fromkeys(names.split(), (marks, theme)))
    return found


#: Operation to its marks on :data:`_COLUMNS` and its theme.
_ENTRIES = _entries()
OPERATIONS = frozenset(_ENTRIES)


def look_up(operation: str, chip: Chip) -> Row:
    """What the table says of a MIL operation type on a chip."""
    operation = _ALIASES.get(operation, operation)
    instead = _INSTEAD.get(operation, '')
    if operation not in _ENTRIES:
        return Row('', False, "not in the guide's table", instead, UNKNOWN)
    if chip.tier not in _COLUMNS:
        return _old(operation, instead)
    mark = _MARKS[_ENTRIES[operation][0][_COLUMNS.index(chip.tier)]]
    label = weakest(chip.sureness, MEASURED if chip.tier in _MEASURED else PREDICTED)
    if mark == NATIVE and operation != 'cumsum':
        return Row(mark, True, '', '', label)
    if mark == BRIDGE and operation in _ROUTES:
        return Row(mark, True, _ROUTES[operation], '', label)
    return Row(mark, False, _reason(operation, mark), instead, label)


def _reason(operation: str, mark: str) -> str:
    marks = _ENTRIES[operation][0]
    since = next((c for m, c in zip(marks, _COLUMNS) if m == 'n'), '')
    why = _WHY.get(operation, '')
    if mark == NO_PATH:
        return 'on no engine' + (f': {why}' if why else '')
    if why:
        return why
    return f'only from the {since} on' if since else 'not by itself'


def _old(operation: str, instead: str) -> Row:
    if operation in _FLOORS['before A13'].split():
        return Row('', True, '', '', PREDICTED)
    if operation in _FLOORS['A13'].split():
        return Row('', False, 'only from the A13 on', instead, PREDICTED)
    if '-' in _ENTRIES[operation][0]:
        return Row('', False, _reason(operation, NO_PATH), instead, PREDICTED)
    return Row('', False, 'the guide does not say', instead, UNKNOWN)
