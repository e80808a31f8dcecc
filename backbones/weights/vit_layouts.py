"""Published plain Vision Transformer checkpoints, by the names of their tensors.

Native names are timm's and those of the official files of MAE, DeiT, DINO and BEiT. What the tensors cannot show (eps,
activation, how positions are resized) stands beside each layout as `source`.
"""

from __future__ import annotations

from typing import Any

from backbones.weights import vit_values as values
from backbones.weights.layout import Layout, Rule, as_is

# What a feature backbone leaves out. `fc_norm` normalises the pooled vector of a classifier, not the tokens; the necks
# of SAM reduce the channels for its decoder.
HEADS: tuple[Rule, ...] = (
    *((f'{part}.{{rest}}', None) for part in ('head', 'head_dist', 'fc_norm', 'pre_logits', 'lm_head')),
    *((f'{part}.{{rest}}', None) for part in ('local_cls_norm', 'attn_pool', 'cls_pt_layers', 'neck')),
    *((f'{part}.{{rest}}', None) for part in ('dino_head', 'ibot_head')),
    ('mask_token', None),
    ('decoder_{rest}', None),
    ('{rest}.relative_position_index', None),  # recomputed
)
# Layer scale in DeiT III, BEiT and timm's models of class Eva.
GAMMA: tuple[Rule, ...] = tuple((f'blocks.{{i}}.gamma_{n}', f'blocks.{{i}}.ls{n}.gamma') for n in (1, 2))
SAM: tuple[Rule, ...] = (
    ('blocks.{i}.mlp.lin1.{w}', 'blocks.{i}.mlp.fc1.{w}'),
    ('blocks.{i}.mlp.lin2.{w}', 'blocks.{i}.mlp.fc2.{w}'),
)
# SwiGLU in timm's DINOv3; `fc2`, the third matrix, is renamed by its company.
SPLIT_GLU: tuple[Rule, ...] = (
    ('blocks.{i}.mlp.fc1_g.{w}', 'blocks.{i}.mlp.w1.{w}'),
    ('blocks.{i}.mlp.fc1_x.{w}', 'blocks.{i}.mlp.w2.{w}'),
)
# DINOv2's training files group blocks into chunks and keep counting through: blocks.CHUNK.INDEX
CHUNKS: tuple[Rule, ...] = (
    *((f'blocks.{{i}}.{{j}}.{norm}.{{w}}', f'blocks.{{j}}.{norm}.{{w}}') for norm in ('norm1', 'norm2')),
    *((f'blocks.{{i}}.{{j}}.{part}.{{rest}}', f'blocks.{{j}}.{part}.{{rest}}') for part in ('attn', 'mlp')),
    *((f'blocks.{{i}}.{{j}}.{scale}.gamma', f'blocks.{{j}}.{scale}.gamma') for scale in ('ls1', 'ls2')),
)
REGISTERS: tuple[Rule, ...] = (('register_tokens', 'reg_token'),)
STORAGE: tuple[Rule, ...] = (('storage_tokens', 'reg_token'),)
NATIVE = HEADS + GAMMA + SAM + SPLIT_GLU + CHUNKS + REGISTERS + STORAGE

CORE = ('patch_embed.proj.weight', 'blocks.*norm1.weight', 'blocks.*attn.qkv.weight', 'blocks.*attn.proj.weight')

# Google, flax: https://github.com/google-research/vision_transformer/blob/c6de1e5/vit_jax/checkpoint.py
JAX_BLOCK = 'Transformer/encoderblock_{i}/'
JAX_ATTENTION = JAX_BLOCK + 'MultiHeadDotProductAttention_1/'
KERNELS = (('kernel', 'weight'), ('bias', 'bias'))
GOOGLE: tuple[Rule, ...] = (
    ('cls', 'cls_token'),
    ('Transformer/posembed_input/pos_embedding', 'pos_embed'),
    *((f'embedding/{kind}', f'patch_embed.proj.{ours}') for kind, ours in KERNELS),
    *(
        (JAX_BLOCK + f'LayerNorm_{number}/{kind}', f'blocks.{{i}}.{norm}.{ours}')
        for number, norm in ((0, 'norm1'), (2, 'norm2'))
        for kind, ours in (('scale', 'weight'), ('bias', 'bias'))
    ),
    *(
        (JAX_ATTENTION + f'{part}/{kind}', f'blocks.{{i}}.attn.{short}.{ours}')
        for part, short in (('query', 'q'), ('key', 'k'), ('value', 'v'), ('out', 'proj'))
        for kind, ours in KERNELS
    ),
    *(
        (JAX_BLOCK + f'MlpBlock_3/Dense_{number}/{kind}', f'blocks.{{i}}.mlp.fc{number + 1}.{ours}')
        for number in (0, 1)
        for kind, ours in KERNELS
    ),
    ('Transformer/encoder_norm/scale', 'norm.weight'),
    ('Transformer/encoder_norm/bias', 'norm.bias'),
    ('head/{rest}', None),
    ('pre_logits/{rest}', None),
)
# https://github.com/pytorch/vision/blob/v0.28.0/torchvision/models/vision_transformer.py
TV_BLOCK = 'encoder.layers.encoder_layer_{i}.'
TORCHVISION: tuple[Rule, ...] = (
    ('class_token', 'cls_token'),
    ('encoder.pos_embedding', 'pos_embed'),
    ('conv_proj.{w}', 'patch_embed.proj.{w}'),
    (TV_BLOCK + 'ln_1.{w}', 'blocks.{i}.norm1.{w}'),
    (TV_BLOCK + 'self_attention.in_proj_weight', 'blocks.{i}.attn.qkv.weight'),
    (TV_BLOCK + 'self_attention.in_proj_bias', 'blocks.{i}.attn.qkv.bias'),
    (TV_BLOCK + 'self_attention.out_proj.{w}', 'blocks.{i}.attn.proj.{w}'),
    (TV_BLOCK + 'ln_2.{w}', 'blocks.{i}.norm2.{w}'),
    # before version 2 of the block: linear_1 and linear_2
    ((TV_BLOCK + 'mlp.0.{w}', TV_BLOCK + 'mlp.linear_1.{w}'), 'blocks.{i}.mlp.fc1.{w}'),
    ((TV_BLOCK + 'mlp.3.{w}', TV_BLOCK + 'mlp.linear_2.{w}'), 'blocks.{i}.mlp.fc2.{w}'),
    ('encoder.ln.{w}', 'norm.{w}'),
    ('heads.{rest}', None),
)
# mmsegmentation 1.x and mmpretrain 1.x: vit.py and beit.py under models/backbones of each
MM: tuple[Rule, ...] = (
    ('patch_embed.projection.{w}', 'patch_embed.proj.{w}'),
    ('layers.{i}.ln1.{w}', 'blocks.{i}.norm1.{w}'),
    ('layers.{i}.ln2.{w}', 'blocks.{i}.norm2.{w}'),
    ('layers.{i}.attn.proj.{w}', 'blocks.{i}.attn.proj.{w}'),
    ('layers.{i}.attn.qkv.{w}', 'blocks.{i}.attn.qkv.{w}'),
    ('layers.{i}.ffn.layers.0.0.{w}', 'blocks.{i}.mlp.fc1.{w}'),
    ('layers.{i}.ffn.layers.1.{w}', 'blocks.{i}.mlp.fc2.{w}'),
    (('layers.{i}.attn.gamma1.weight', 'layers.{i}.gamma_1'), 'blocks.{i}.ls1.gamma'),
    (('layers.{i}.ffn.gamma2.weight', 'layers.{i}.gamma_2'), 'blocks.{i}.ls2.gamma'),
    ('layers.{i}.ffn.w12.{w}', 'blocks.{i}.mlp.w12.{w}'),
    ('layers.{i}.ffn.w3.{w}', 'blocks.{i}.mlp.w3.{w}'),
    ('layers.{i}.attn.q_bias', 'blocks.{i}.attn.q_bias'),
    ('layers.{i}.attn.v_bias', 'blocks.{i}.attn.v_bias'),
    ('layers.{i}.attn.relative_position_bias_table', 'blocks.{i}.attn.relative_position_bias_table'),
    ('rel_pos_bias.relative_position_bias_table', 'rel_pos_bias.relative_position_bias_table'),
    ('pre_norm.{w}', 'norm_pre.{w}'),
    ('ln1.{w}', 'norm.{w}'),
    *((name, name) for name in ('cls_token', 'pos_embed')),
    ('{rest}.relative_position_index', None),
    ('ln2.{w}', None),  # of the pooled vector
    ('mask_token', None),
)
MM_GAMMA: tuple[Rule, ...] = tuple((f'layers.{{i}}.gamma_{n}', f'blocks.{{i}}.ls{n}.gamma') for n in (1, 2))  # BEiT
MMSEG: tuple[Rule, ...] = (
    ('layers.{i}.attn.attn.in_proj_weight', 'blocks.{i}.attn.qkv.weight'),
    ('layers.{i}.attn.attn.in_proj_bias', 'blocks.{i}.attn.qkv.bias'),
    ('layers.{i}.attn.attn.out_proj.{w}', 'blocks.{i}.attn.proj.{w}'),
    *MM,
)
# OpenAI's CLIP and open_clip: https://github.com/openai/CLIP/blob/d05afc4/clip/model.py
CLIP_BLOCK = 'transformer.resblocks.{i}.'
CLIP: tuple[Rule, ...] = (
    ('class_embedding', 'cls_token'),
    ('positional_embedding', 'pos_embed'),
    ('conv1.weight', 'patch_embed.proj.weight'),
    ('ln_pre.{w}', 'norm_pre.{w}'),
    (CLIP_BLOCK + 'ln_1.{w}', 'blocks.{i}.norm1.{w}'),
    (CLIP_BLOCK + 'attn.in_proj_weight', 'blocks.{i}.attn.qkv.weight'),
    (CLIP_BLOCK + 'attn.in_proj_bias', 'blocks.{i}.attn.qkv.bias'),
    (CLIP_BLOCK + 'attn.out_proj.{w}', 'blocks.{i}.attn.proj.{w}'),
    (CLIP_BLOCK + 'ls_1.gamma', 'blocks.{i}.ls1.gamma'),
    (CLIP_BLOCK + 'ln_2.{w}', 'blocks.{i}.norm2.{w}'),
    (CLIP_BLOCK + 'mlp.c_fc.{w}', 'blocks.{i}.mlp.fc1.{w}'),
    (CLIP_BLOCK + 'mlp.c_proj.{w}', 'blocks.{i}.mlp.fc2.{w}'),
    (CLIP_BLOCK + 'ls_2.gamma', 'blocks.{i}.ls2.gamma'),
    ('ln_post.{w}', 'norm.{w}'),
    ('proj', None),
)
# A whole file of OpenAI: 0-d integers beside the two towers tell it from open_clip, whose activation is another.
OPENAI: tuple[Rule, ...] = (
    *((f'visual.{theirs}', ours) for theirs, ours in CLIP),
    *((f'{part}.{{rest}}', None) for part in ('transformer', 'token_embedding', 'ln_final')),
    *((part, None) for part in ('positional_embedding', 'text_projection', 'logit_scale')),
    *((part, None) for part in ('input_resolution', 'context_length', 'vocab_size')),
)


def _hf_attention(theirs: str, names: tuple[str, str, str]) -> tuple[Rule, ...]:
    """Three matrices of attention on top of each other."""
    pairs = zip(names, 'qkv', strict=True)
    return tuple((f'{theirs}{name}.{{w}}', f'blocks.{{i}}.attn.{part}.{{w}}') for name, part in pairs)


# Hugging Face, transformers 4.57.6: src/transformers/models/{vit,vit_mae,deit,beit,dinov2,dinov3_vit,clip,siglip}
HF_BLOCK = 'encoder.layer.{i}.'
HF_EMBEDDINGS: tuple[Rule, ...] = (
    ('embeddings.cls_token', 'cls_token'),
    ('embeddings.position_embeddings', 'pos_embed'),
    ('embeddings.mask_token', None),
    ('embeddings.patch_embeddings.projection.{w}', 'patch_embed.proj.{w}'),
    ('layernorm.{w}', 'norm.{w}'),
    ('pooler.{rest}', None),
    ('{rest}.relative_position_index', None),
    ('decoder.{rest}', None),
    *((f'{part}.{{rest}}', None) for part in ('classifier', 'cls_classifier', 'distillation_classifier', 'lm_head')),
)
HF_REGISTERS: Rule = ('embeddings.register_tokens', 'reg_token')
DISTILLED: tuple[Rule, ...] = (('embeddings.distillation_token', 'dist_token'),)
HUGGING_FACE: tuple[Rule, ...] = (
    *HF_EMBEDDINGS,
    *_hf_attention(HF_BLOCK + 'attention.attention.', ('query', 'key', 'value')),
    (HF_BLOCK + 'attention.output.dense.{w}', 'blocks.{i}.attn.proj.{w}'),
    (HF_BLOCK + 'layernorm_before.{w}', 'blocks.{i}.norm1.{w}'),
    (HF_BLOCK + 'layernorm_after.{w}', 'blocks.{i}.norm2.{w}'),
    (HF_BLOCK + 'intermediate.dense.{w}', 'blocks.{i}.mlp.fc1.{w}'),
    (HF_BLOCK + 'output.dense.{w}', 'blocks.{i}.mlp.fc2.{w}'),
)
HF_BEIT: tuple[Rule, ...] = (
    *HUGGING_FACE,
    (HF_BLOCK + 'lambda_1', 'blocks.{i}.ls1.gamma'),
    (HF_BLOCK + 'lambda_2', 'blocks.{i}.ls2.gamma'),
    (
        HF_BLOCK + 'attention.attention.relative_position_bias.relative_position_bias_table',
        'blocks.{i}.attn.relative_position_bias_table',
    ),
    ('encoder.relative_position_bias.relative_position_bias_table', 'rel_pos_bias.relative_position_bias_table'),
)
HF_DINOV2: tuple[Rule, ...] = (
    HF_REGISTERS,
    *HF_EMBEDDINGS,
    *_hf_attention(HF_BLOCK + 'attention.attention.', ('query', 'key', 'value')),
    (HF_BLOCK + 'attention.output.dense.{w}', 'blocks.{i}.attn.proj.{w}'),
    *((HF_BLOCK + f'norm{n}.{{w}}', f'blocks.{{i}}.norm{n}.{{w}}') for n in (1, 2)),
    *((HF_BLOCK + f'layer_scale{n}.lambda1', f'blocks.{{i}}.ls{n}.gamma') for n in (1, 2)),
    *((HF_BLOCK + f'mlp.fc{n}.{{w}}', f'blocks.{{i}}.mlp.fc{n}.{{w}}') for n in (1, 2)),
    (HF_BLOCK + 'mlp.weights_in.{w}', 'blocks.{i}.mlp.w12.{w}'),
    (HF_BLOCK + 'mlp.weights_out.{w}', 'blocks.{i}.mlp.w3.{w}'),
)
HF_DINOV3: tuple[Rule, ...] = (
    ('norm.{w}', 'norm.{w}'),
    HF_REGISTERS,
    ('embeddings.patch_embeddings.{w}', 'patch_embed.proj.{w}'),
    *HF_EMBEDDINGS,
    *_hf_attention('layer.{i}.attention.', ('q_proj', 'k_proj', 'v_proj')),
    ('layer.{i}.attention.o_proj.{w}', 'blocks.{i}.attn.proj.{w}'),
    *((f'layer.{{i}}.norm{n}.{{w}}', f'blocks.{{i}}.norm{n}.{{w}}') for n in (1, 2)),
    *((f'layer.{{i}}.layer_scale{n}.lambda1', f'blocks.{{i}}.ls{n}.gamma') for n in (1, 2)),
)
HF_DINOV3_MLP: tuple[Rule, ...] = (
    ('layer.{i}.mlp.up_proj.{w}', 'blocks.{i}.mlp.fc1.{w}'),
    ('layer.{i}.mlp.down_proj.{w}', 'blocks.{i}.mlp.fc2.{w}'),
)
HF_DINOV3_GATED: tuple[Rule, ...] = (
    ('layer.{i}.mlp.gate_proj.{w}', 'blocks.{i}.mlp.w1.{w}'),
    ('layer.{i}.mlp.up_proj.{w}', 'blocks.{i}.mlp.w2.{w}'),
    ('layer.{i}.mlp.down_proj.{w}', 'blocks.{i}.mlp.w3.{w}'),
)
HF_CLIP: tuple[Rule, ...] = (
    ('embeddings.class_embedding', 'cls_token'),
    ('embeddings.position_embedding.weight', 'pos_embed'),
    ('embeddings.position_ids', None),
    ('embeddings.patch_embedding.{w}', 'patch_embed.proj.{w}'),
    ('pre_layrnorm.{w}', 'norm_pre.{w}'),  # sic
    *_hf_attention('encoder.layers.{i}.self_attn.', ('q_proj', 'k_proj', 'v_proj')),
    ('encoder.layers.{i}.self_attn.out_proj.{w}', 'blocks.{i}.attn.proj.{w}'),
    *((f'encoder.layers.{{i}}.layer_norm{n}.{{w}}', f'blocks.{{i}}.norm{n}.{{w}}') for n in (1, 2)),
    *((f'encoder.layers.{{i}}.mlp.fc{n}.{{w}}', f'blocks.{{i}}.mlp.fc{n}.{{w}}') for n in (1, 2)),
    ('post_layernorm.{w}', 'norm.{w}'),
    ('head.{rest}', None),  # SigLIP pools by attention
)


def _layout(name: str, has: tuple[str, ...], lacks: tuple[str, ...] = (), **options: Any) -> Layout:
    options = {'merge': values.merge, **options}
    source = dict(norm_eps=1e-6, act='gelu', pos_interpolation='bicubic') | options.pop('source', {})
    return Layout(name, 'VisionTransformer', has, lacks, source=source, **options)


def _native(name: str, has: tuple[str, ...] = (), lacks: tuple[str, ...] = (), **options: Any) -> Layout:
    return _layout(name, CORE + has, lacks, **{'also': NATIVE, 'split': as_is, **options})


PERIODS = ('rope_embed.periods',)
_antialias = dict(pos_interpolation='bicubic_antialias')
_hf_core = ('embeddings.cls_token', 'encoder.layer.0.attention.attention.query.weight')
_hf = dict(keeps=False, split=values.split_with_class_row, targets=('hf',))
# what every file has whose publisher adds positions to patches and a class token
_tokens = dict(needs=(('cls_token',), ('pos_embed',)))
LAYOUTS = (
    _native(
        'DINOv3', ('rope_embed.periods',), table=STORAGE, split=values.dinov3_bias, targets=('official',),
        models=('dinov3',), needs=(('cls_token',),), source=dict(norm_eps=1e-5, position='rope'),
    ),
    _native(
        'timm DINOv3', ('reg_token',), ('pos_embed',), table=GAMMA + SPLIT_GLU, split=values.timm_glu,
        targets=('timm',), omits=PERIODS, models=('dinov3',), needs=(('cls_token',),),
        source=dict(norm_eps=1e-5, position='rope'),
    ),
    _native(
        'BEiT', ('*relative_position_bias_table',), table=GAMMA, targets=('official', 'timm'), wrapper='model',
        models=('beit',),
    ),
    _native(
        'SAM', ('blocks.*.attn.rel_pos_h', 'blocks.*.mlp.lin1.weight'), table=SAM, split=values.sam_positions,
        targets=('official',), prefix='image_encoder.', models=('sam',),
    ),
    _native(
        'detectron2 ViTDet', ('blocks.*.attn.rel_pos_h', 'pos_embed'), ('head.weight',), targets=('official',),
        wrapper='model', prefix='backbone.net.', models=('vitdet',),
    ),
    _native('DeiT distilled', ('dist_token', 'cls_token'), **_tokens),
    _native('MAE with decoder', ('decoder_embed.weight', 'decoder_pos_embed'), **_tokens),
    _native(
        'DINOv2', ('mask_token', 'blocks.*.ls1.gamma'), ('register_tokens',), targets=('official',), models=('dinov2',),
        source=dict(pos_interpolation='bicubic_offset'),
    ),
    _native(
        'DINOv2 with registers', ('register_tokens', 'blocks.*.ls1.gamma'), table=REGISTERS, targets=('official',),
        models=('dinov2',), source=_antialias,
    ),
    _native(
        'timm CLIP', ('norm_pre.weight',), targets=('timm',), models=('clip',),
        source=_antialias | dict(norm_eps=1e-5),
    ),
    _native('DINO', only_in='teacher', source=dict(pos_interpolation='bicubic_offset'), **_tokens),
    _native(
        'DeiT or MAE', only_in='model', wrapper='model', table=GAMMA, split=values.deit_names, targets=('official',),
        **_tokens,
    ),
    _native(
        # a gate and absolute positions together are EVA-02, whose rotary positions are in no file
        'timm', lacks=('blocks.*.mlp.fc1_g.weight',), split=values.timm_glu, fold=values.fold_class_position,
        targets=('timm',), models=('', 'dinov2'),
        source=_antialias,
    ),
    _layout(
        'Google JAX', ('embedding/kernel', JAX_ATTENTION.format(i=0) + 'query/kernel'), table=GOOGLE, keeps=False,
        merge=values.merge_jax, heads=values.jax_heads, source=_antialias, **_tokens,
    ),
    _layout(
        'torchvision', ('conv_proj.weight', 'encoder.layers.encoder_layer_0.ln_1.weight'), table=TORCHVISION,
        keeps=False, split=values.class_row, targets=('torchvision',), source=dict(pos_interpolation='bicubic_corners'),
    ),
    _layout('mmseg', ('patch_embed.projection.weight', 'layers.0.attn.attn.in_proj_weight'), table=MMSEG, keeps=False),
    _layout(
        'mmpretrain BEiT',
        ('patch_embed.projection.weight', 'layers.0.attn.qkv.weight', '*relative_position_bias_table'),
        table=MM_GAMMA + MM, keeps=False, split=as_is, targets=('mmpretrain',), wrapper='state_dict',
        prefix='backbone.',
        models=('beit',),
    ),
    _layout(
        'mmpretrain', ('patch_embed.projection.weight', 'layers.0.attn.qkv.weight'), table=MM, keeps=False,
        split=as_is, targets=('mmpretrain',), wrapper='state_dict', prefix='backbone.',
        models=('', 'clip', 'dinov2'),
    ),
    _layout(
        'OpenAI CLIP', ('visual.conv1.weight', 'input_resolution'), table=OPENAI, keeps=False, models=('clip',),
        source=dict(norm_eps=1e-5, act='quick_gelu'),
    ),
    _layout(
        'open_clip', ('conv1.weight', 'class_embedding', 'transformer.resblocks.0.ln_1.weight'), table=CLIP,
        keeps=False, split=values.clip_tokens, targets=('official',), prefix='visual.', models=('clip',),
        source=_antialias | dict(norm_eps=1e-5),
    ),
    _layout(
        'Hugging Face BEiT', (*_hf_core, '*relative_position_bias_table'), table=HF_BEIT, prefix='beit.',
        models=('beit',),
        source=dict(norm_eps=1e-12), **_hf,
    ),
    _layout(
        'Hugging Face DINOv2 with registers',
        (*_hf_core, 'embeddings.register_tokens', 'encoder.layer.0.layer_scale1.lambda1'), table=HF_DINOV2,
        models=('dinov2', ''), source=_antialias, **_hf,
    ),
    _layout(
        'Hugging Face DINOv2', (*_hf_core, 'encoder.layer.0.layer_scale1.lambda1'), table=HF_DINOV2,
        models=('dinov2', ''), **_hf,
    ),
    _layout(
        'Hugging Face ViT', (*_hf_core, 'encoder.layer.0.layernorm_before.weight'), table=HUGGING_FACE, also=DISTILLED,
        prefix='vit.',
        source=dict(norm_eps=1e-12), **_hf,
    ),
    _layout(
        'Hugging Face DINOv3, gated', ('layer.0.attention.q_proj.weight', 'layer.0.mlp.gate_proj.weight'),
        table=HF_DINOV3 + HF_DINOV3_GATED, models=('dinov3',), omits=PERIODS,
        source=dict(norm_eps=1e-5, position='rope'), **_hf,
    ),
    _layout(
        'Hugging Face DINOv3', ('layer.0.attention.q_proj.weight', 'layer.0.mlp.up_proj.weight'),
        table=HF_DINOV3 + HF_DINOV3_MLP, models=('dinov3',), omits=PERIODS,
        source=dict(norm_eps=1e-5, position='rope'), **_hf,
    ),
    _layout(
        'Hugging Face CLIP', ('pre_layrnorm.weight', 'encoder.layers.0.self_attn.q_proj.weight'), table=HF_CLIP,
        keeps=False, split=values.hf_clip_tokens, targets=('hf',), prefix='vision_model.',
        models=('clip',), source=dict(norm_eps=1e-5, act='quick_gelu'),
    ),
    _layout(
        'Hugging Face SigLIP', ('embeddings.patch_embedding.weight', 'encoder.layers.0.self_attn.q_proj.weight'),
        ('pre_layrnorm.weight',), table=HF_CLIP, keeps=False, source=dict(act='gelu_tanh'),
    ),
)
