"""Published ConvNeXt checkpoints, by the names of their tensors.

Native names are those of the official files, so the official tables mostly say what a feature backbone leaves out.
Shapes: C channels, k side of a kernel.
"""

from __future__ import annotations

import math
from fnmatch import fnmatchcase

from torch import Tensor

from backbones.weights.layout import Layout, Rule, State, as_is

# `norm` normalises the pooled vector of the classifier. It is not the output norm of the last stage: the
# official detector leaves it out and starts `norm3` anew.
# https://github.com/facebookresearch/ConvNeXt/blob/048efce/object_detection/mmdet/models/backbones/convnext.py
CLASSIFIER: tuple[Rule, ...] = (('norm.{w}', None), ('head.{rest}', None))
# DINOv3 applies its final norm to the last map, and stores it a second time as the norm of that stage.
# https://github.com/facebookresearch/dinov3/blob/6876159/dinov3/models/convnext.py
DINOV3: tuple[Rule, ...] = (('norms.{i}.{w}', 'norm{i}.{w}'), ('norm.{w}', None))

STAGES = ('downsample_layers.0.0.weight', 'stages.0.0.dwconv.weight', 'stages.0.0.pwconv1.weight')

# https://github.com/huggingface/pytorch-image-models/blob/main/timm/models/convnext.py
TIMM: tuple[Rule, ...] = (
    ('stem.{j}.{w}', 'downsample_layers.0.{j}.{w}'),
    ('stages.{i}.downsample.{j}.{w}', 'downsample_layers.{i}.{j}.{w}'),
    ('stages.{i}.blocks.{j}.conv_dw.{w}', 'stages.{i}.{j}.dwconv.{w}'),
    ('stages.{i}.blocks.{j}.norm.{w}', 'stages.{i}.{j}.norm.{w}'),
    ('stages.{i}.blocks.{j}.mlp.fc1.{w}', 'stages.{i}.{j}.pwconv1.{w}'),
    ('stages.{i}.blocks.{j}.mlp.fc2.{w}', 'stages.{i}.{j}.pwconv2.{w}'),
    ('stages.{i}.blocks.{j}.mlp.grn.weight', 'stages.{i}.{j}.grn.gamma'),
    ('stages.{i}.blocks.{j}.mlp.grn.bias', 'stages.{i}.{j}.grn.beta'),
    ('stages.{i}.blocks.{j}.gamma', 'stages.{i}.{j}.gamma'),
    ('head.{rest}', None),
    ('norm_pre.{w}', None),  # the classifier's norm again, in the models that normalise before pooling (CLIP)
)
# https://github.com/huggingface/transformers/blob/v4.57.6/src/transformers/models/convnext/modeling_convnext.py
HF_BLOCK = 'encoder.stages.{i}.layers.{j}.'
HUGGING_FACE: tuple[Rule, ...] = (
    ('embeddings.patch_embeddings.{w}', 'downsample_layers.0.0.{w}'),
    ('embeddings.layernorm.{w}', 'downsample_layers.0.1.{w}'),
    ('encoder.stages.{i}.downsampling_layer.{j}.{w}', 'downsample_layers.{i}.{j}.{w}'),
    (HF_BLOCK + 'dwconv.{w}', 'stages.{i}.{j}.dwconv.{w}'),
    (HF_BLOCK + 'layernorm.{w}', 'stages.{i}.{j}.norm.{w}'),
    (HF_BLOCK + 'pwconv1.{w}', 'stages.{i}.{j}.pwconv1.{w}'),
    (HF_BLOCK + 'pwconv2.{w}', 'stages.{i}.{j}.pwconv2.{w}'),
    (HF_BLOCK + 'layer_scale_parameter', 'stages.{i}.{j}.gamma'),
    (HF_BLOCK + 'grn.weight', 'stages.{i}.{j}.grn.gamma'),
    (HF_BLOCK + 'grn.bias', 'stages.{i}.{j}.grn.beta'),
    # UperNet's backbone: its norms are those of the outputs, counted from 1
    *((f'hidden_states_norms.stage{i + 1}.{{w}}', f'norm{i}.{{w}}') for i in range(4)),
    ('layernorm.{w}', None),
    ('classifier.{w}', None),
)
# https://github.com/huggingface/transformers/blob/v4.57.6/src/transformers/models/dinov3_convnext/modeling_dinov3_convnext.py
DINOV3_HUGGING_FACE: tuple[Rule, ...] = (
    ('stages.{i}.downsample_layers.{j}.{w}', 'downsample_layers.{i}.{j}.{w}'),
    ('stages.{i}.layers.{j}.depthwise_conv.{w}', 'stages.{i}.{j}.dwconv.{w}'),
    ('stages.{i}.layers.{j}.layer_norm.{w}', 'stages.{i}.{j}.norm.{w}'),
    ('stages.{i}.layers.{j}.pointwise_conv1.{w}', 'stages.{i}.{j}.pwconv1.{w}'),
    ('stages.{i}.layers.{j}.pointwise_conv2.{w}', 'stages.{i}.{j}.pwconv2.{w}'),
    ('stages.{i}.layers.{j}.gamma', 'stages.{i}.{j}.gamma'),
    ('layer_norm.{w}', 'norm3.{w}'),
)
# Stem at 0, stage i at 2 i + 1, the layer that reduces the resolution before stage i at 2 i; the numbers inside a
# block count what has no weights, too.
# https://github.com/pytorch/vision/blob/v0.28.0/torchvision/models/convnext.py
TORCHVISION: tuple[Rule, ...] = (
    *((f'features.{2 * i}.{{j}}.{{w}}', f'downsample_layers.{i}.{{j}}.{{w}}') for i in range(4)),
    *(
        (f'features.{2 * i + 1}.{{j}}.block.{number}.{{w}}', f'stages.{i}.{{j}}.{layer}.{{w}}')
        for i in range(4)
        for number, layer in ((0, 'dwconv'), (2, 'norm'), (3, 'pwconv1'), (5, 'pwconv2'))
    ),
    *((f'features.{2 * i + 1}.{{j}}.layer_scale', f'stages.{i}.{{j}}.gamma') for i in range(4)),
    ('classifier.{rest}', None),
)
# Its norm3 is the norm of the classifier, applied to the map instead of the pooled vector in dense prediction.
# https://github.com/open-mmlab/mmpretrain/blob/v1.2.0/mmpretrain/models/backbones/convnext.py
MMPRETRAIN: tuple[Rule, ...] = (
    ('stages.{i}.{j}.depthwise_conv.{w}', 'stages.{i}.{j}.dwconv.{w}'),
    ('stages.{i}.{j}.pointwise_conv1.{w}', 'stages.{i}.{j}.pwconv1.{w}'),
    ('stages.{i}.{j}.pointwise_conv2.{w}', 'stages.{i}.{j}.pwconv2.{w}'),
    *((name, name) for name in ('downsample_layers.{i}.{j}.{w}', 'stages.{i}.{j}.norm.{w}', 'norm{i}.{w}')),
    *((f'stages.{{i}}.{{j}}.{name}', f'stages.{{i}}.{{j}}.{name}') for name in ('gamma', 'grn.gamma', 'grn.beta')),
)
# MinkowskiEngine's containers add a level to the names.
# https://github.com/facebookresearch/ConvNeXt-V2/blob/2553895/models/convnextv2_sparse.py
SPARSE: tuple[Rule, ...] = (
    ('downsample_layers.{i}.{j}.ln.{w}', 'downsample_layers.{i}.{j}.{w}'),
    ('downsample_layers.{i}.{j}.kernel', 'downsample_layers.{i}.{j}.weight'),
    ('stages.{i}.{j}.dwconv.kernel', 'stages.{i}.{j}.dwconv.weight'),
    ('stages.{i}.{j}.norm.ln.{w}', 'stages.{i}.{j}.norm.{w}'),
    ('stages.{i}.{j}.pwconv1.linear.{w}', 'stages.{i}.{j}.pwconv1.{w}'),
    ('stages.{i}.{j}.pwconv2.linear.{w}', 'stages.{i}.{j}.pwconv2.{w}'),
)


CONV_MLP = (40, 48, 64, 80)  # stem widths of atto, femto, pico, nano, which timm builds with conv_mlp


def _merge(state: State) -> State:
    """Give every tensor its native shape: layer scale (C,), GRN (1, 1, 1, 4C), pointwise weights with two axes."""
    return {name: _reshape(name, value) for name, value in state.items()}


def _reshape(name: str, value: Tensor) -> Tensor:
    if name.endswith(('.grn.gamma', '.grn.beta')):  # published as (1, 1, 1, 4C), (1, 4C) or (4C,)
        return value if value.ndim == 4 else value.reshape(1, 1, 1, -1)
    if name.endswith('.gamma') and value.ndim == 3:  # torchvision: (C, 1, 1)
        return value.flatten()
    if fnmatchcase(name, '*.pwconv[12].weight') and value.ndim == 4:  # timm's small sizes: 1x1 convolutions
        return value.flatten(1)
    return value


def _merge_sparse(state: State) -> State:
    """Bring MinkowskiEngine's kernels to dense ones; it counts the positions of a kernel column by column."""
    native = {}
    for name, value in _merge(state).items():
        if name.endswith('dwconv.weight') and value.ndim == 2:  # (k * k, C)
            side = math.isqrt(value.shape[0])
            value = value.t().reshape(-1, 1, side, side).transpose(2, 3).contiguous()  # (C, 1, k, k)
        elif name.startswith('downsample_layers') and value.ndim == 3:  # (k * k, C_in, C_out)
            side = math.isqrt(value.shape[0])
            value = value.permute(2, 1, 0).unflatten(2, (side, side)).transpose(2, 3).contiguous()  # (out, in, k, k)
        elif name.endswith('.bias') and value.ndim == 2:  # (1, C)
            value = value[0]
        native[name] = value
    return native


def _flat_grn(state: State) -> State:
    """Write GRN as (4C,)."""
    return {name: value.flatten() if '.grn.' in name else value for name, value in state.items()}


def _timm_shapes(state: State) -> State:
    """Write GRN as (4C,), and the matrices of timm's small sizes as 1x1 convolutions."""
    stem = state.get('downsample_layers.0.0.weight')
    if stem is None or stem.shape[0] not in CONV_MLP:
        return _flat_grn(state)
    return {
        name: value[:, :, None, None] if fnmatchcase(name, '*.pwconv[12].weight') else value
        for name, value in _flat_grn(state).items()
    }


def _torchvision_scale(state: State) -> State:
    """Write the layer scale as (C, 1, 1)."""
    return {name: value[:, None, None] if name.endswith('.gamma') else value for name, value in state.items()}


def _layout(name: str, has: tuple[str, ...], lacks: tuple[str, ...] = (), **options) -> Layout:
    options = {'table': CLASSIFIER, 'merge': _merge, 'needs': SCALED, 'source': dict(norm_eps=1e-6), **options}
    return Layout(name, 'ConvNeXt', has, lacks, **options)


# Norms of outputs belong to dense prediction; a classifier's code has no place for them.
NORMS = tuple(f'norm{i}.{kind}' for i in range(4) for kind in ('weight', 'bias'))
# V1 has a layer scale in every block, V2 GRN instead.
SCALED = (('stages.*.gamma', 'stages.*.grn.gamma'),)
_foreign = dict(keeps=False)
_official = dict(split=as_is, targets=('official',), wrapper='model', omits=NORMS)
LAYOUTS = (
    _layout(
        'DINOv3', (*STAGES, 'norms.3.weight'), ('*.grn.gamma',), table=DINOV3, split=as_is,
        targets=('official',), models=('dinov3',),
    ),
    _layout('official detector', (*STAGES, 'norm[0-3].weight'), ('*.grn.gamma',)),
    _layout('official V1', STAGES, ('*.grn.gamma',), **_official),
    _layout('V2 detector', (*STAGES, '*.grn.gamma', 'norm[0-3].weight')),
    _layout('official V2', (*STAGES, '*.grn.gamma', 'head.weight')),
    _layout('official V2 FCMAE', (*STAGES, '*.grn.gamma'), ('head.weight',), **_official),
    _layout(
        'official V2 FCMAE, sparse', ('downsample_layers.0.0.weight', 'stages.0.0.dwconv.kernel'),
        table=SPARSE, merge=_merge_sparse,
    ),
    _layout(
        'official isotropic', ('stem.weight', 'blocks.0.dwconv.weight', 'blocks.0.pwconv1.weight'), needs=(),
        **_official,
    ),
    _layout(
        'timm', ('stem.0.weight', 'stages.0.blocks.0.conv_dw.weight'), table=TIMM, split=_timm_shapes,
        targets=('timm',), omits=NORMS, models=('', 'dinov3'), **_foreign,
    ),
    _layout(
        'Hugging Face', ('embeddings.patch_embeddings.weight', 'encoder.stages.0.layers.0.dwconv.weight'),
        ('*.grn.weight',), table=HUGGING_FACE, split=as_is, targets=('hf',), prefix='convnext.', **_foreign,
    ),
    _layout(
        'Hugging Face V2', ('embeddings.patch_embeddings.weight', 'encoder.stages.0.layers.0.grn.weight'),
        table=HUGGING_FACE, split=as_is, targets=('hf',), prefix='convnextv2.', **_foreign,
    ),
    _layout(
        'DINOv3, Hugging Face', ('stages.0.downsample_layers.0.weight', 'stages.0.layers.0.depthwise_conv.weight'),
        table=DINOV3_HUGGING_FACE, split=as_is, targets=('hf',), models=('dinov3',), **_foreign,
    ),
    _layout(
        'torchvision', ('features.0.0.weight', 'features.1.0.block.0.weight', 'features.1.0.layer_scale'),
        table=TORCHVISION, split=_torchvision_scale, targets=('torchvision',), omits=NORMS, **_foreign,
    ),
    _layout(
        'mmpretrain', ('downsample_layers.0.0.weight', 'stages.0.0.depthwise_conv.weight'), table=MMPRETRAIN,
        split=_flat_grn, targets=('mmpretrain',), wrapper='state_dict', prefix='backbone.', **_foreign,
    ),
)
