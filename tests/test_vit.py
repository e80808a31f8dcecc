"""VisionTransformer: what a detector or a segmenter asks of it. Features: see test_vit_references.py."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from backbones.vit import ARCHS, VisionTransformer

TOY = dict(embed_dim=24, depth=4, num_heads=3)
ROPE = dict(arch=dict(embed_dim=24, depth=4, num_heads=2), position='rope', num_registers=4, qkv_bias='qv')
WINDOWS = dict(
    with_cls_token=False, window_size=3, global_attn_indexes=(1, 3), img_size=64, rel_pos='decomposed'
)
VARIANTS = {
    'plain': dict(),
    'vitdet': dict(WINDOWS),
    'vitdet with convolutions': dict(
        WINDOWS, global_attn_indexes=(), residual_block_indexes=(1, 3), img_size=None
    )
    | dict(rel_pos='none'),
    'beit': dict(
        position='none', rel_pos='bias_table', img_size=64, qkv_bias='qv', layer_scale_init_value=0.1
    ),
    'clip': dict(pre_norm=True, act='quick_gelu', patch_bias=False, norm_eps=1e-5),
    'dinov2 giant': dict(
        patch_size=14, num_registers=4, mlp='swiglu', layer_scale_init_value=1.0, out_norm='all'
    ),
    'dinov3': dict(ROPE, mlp='swiglu_split', layer_scale_init_value=1.0, out_norm='last'),
    'siglip': dict(with_cls_token=False, act='gelu_tanh', out_norm='each'),
    'registers without class token': dict(with_cls_token=False, num_registers=2, qkv_bias=False),
}
LAYER_DECAY = Path(__file__).parent / 'references' / 'layer_decay'


def toy(**options) -> VisionTransformer:
    """Build a narrow model with random values everywhere, so that every parameter matters."""
    torch.manual_seed(0)
    model = VisionTransformer(**{'arch': TOY, 'pretrain_img_size': 64, **options})
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.2)
    return model


def images(height: int = 64, width: int = 64, count: int = 2) -> torch.Tensor:
    """Make random images (count, 3, height, width), the same ones each time."""
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(1))


# Shapes


@pytest.mark.parametrize('name', VARIANTS)
@pytest.mark.parametrize(('height', 'width'), [(64, 64), (96, 40), (43, 83), (16, 112), (9, 7)])
def test_outputs_cover_images_of_any_size_with_whole_patches(name, height, width):
    model = toy(**VARIANTS[name], out_indices=(1, 3)).eval()
    outputs = model(images(height, width))
    assert (model.out_strides, model.out_channels) == ((model.patch_size,) * 2, (24, 24))
    for output in outputs:
        assert output.shape == (2, 24, -(-height // model.patch_size), -(-width // model.patch_size))
        assert output.isfinite().all()


def test_an_image_that_does_not_fill_its_patches_is_padded_with_zeros_at_the_bottom_and_the_right():
    model, x = toy().eval(), images(43, 83)
    padded = nn.functional.pad(x, (0, 13, 0, 5))
    assert torch.equal(model(x)[0], model(padded)[0])


def test_the_last_block_is_the_default_output():
    model = toy()
    assert model.out_indices == (3,)
    assert torch.equal(model(images())[0], toy(out_indices=(1, 3))(images())[1])


def test_only_blocks_that_feed_an_output_are_built():
    model = toy(out_indices=(0, 1))
    assert len(model.blocks) == 2
    assert torch.equal(model(images())[1], toy(out_indices=(1,))(images())[0])


def test_other_channel_numbers_and_dtypes_work():
    assert toy(in_channels=5).double()(torch.randn(1, 5, 32, 32).double())[0].dtype == torch.double


# Gradients and modes


@pytest.mark.parametrize('name', VARIANTS)
def test_every_parameter_gets_a_gradient(name):
    model = toy(**VARIANTS[name], out_indices=(1, 3))
    sum(output.sin().sum() for output in model(images(80, 48))).backward()
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.abs().max() > 0, parameter_name


@pytest.mark.parametrize('name', ['plain', 'vitdet', 'beit', 'dinov3'])
def test_recomputation_changes_neither_outputs_nor_gradients(name):
    results = []
    for with_cp in (False, True):
        model = toy(**VARIANTS[name], with_cp=with_cp, drop_path_rate=0.5)
        torch.manual_seed(1)
        (output,) = model(images())
        output.sin().sum().backward()
        results.append([output, *(parameter.grad for parameter in model.parameters())])
    for plain, recomputed in zip(*results, strict=True):
        torch.testing.assert_close(plain, recomputed)


def test_drop_path_grows_from_zero_to_its_rate_over_the_depth_of_the_arch():
    model = toy(drop_path_rate=0.3, out_indices=(2,))
    assert [block.drop_path.rate for block in model.blocks] == pytest.approx([0.0, 0.1, 0.2])


def test_drop_path_is_off_in_evaluation():
    x = images()
    assert torch.equal(toy(drop_path_rate=0.9).eval()(x)[0], toy().eval()(x)[0])


@pytest.mark.parametrize('frozen_stages', [-1, 0, 2, 4])
def test_frozen_stages_freezes_tokens_positions_the_first_blocks_and_the_norm_after_the_last(frozen_stages):
    model = toy(frozen_stages=frozen_stages, num_registers=2, pre_norm=True, out_norm='last').train()
    for name, parameter in model.named_parameters():
        first, *path = name.split('.')
        needed = {'blocks': int(path[0]) + 1 if first == 'blocks' else None, 'norm': 4}.get(first, 0)
        frozen = frozen_stages >= needed
        assert parameter.requires_grad is not frozen, name
    assert [block.training for block in model.blocks] == [i >= frozen_stages for i in range(4)]


# Windows, positions, norms


@pytest.mark.parametrize('rel_pos', ['none', 'decomposed'])
def test_windows_as_large_as_the_grid_equal_global_attention(rel_pos):
    options = dict(with_cls_token=False, rel_pos=rel_pos, img_size=64 if rel_pos != 'none' else None)
    x = images()
    windowed = toy(**options, window_size=4, global_attn_indexes=(1,))(x)
    torch.testing.assert_close(windowed, toy(**options)(x))


def test_global_attn_indexes_names_the_blocks_that_see_the_whole_image():
    for indexes, reaches in (((), False), ((2,), True)):
        model = toy(with_cls_token=False, window_size=2, global_attn_indexes=indexes).eval()
        x = images()
        changed = x.clone()
        changed[:, :, :16, :16] += 1  # first patch; the last patch is in another window
        differs = (model(x)[0] - model(changed)[0])[..., -1, -1].abs().max() > 1e-6
        assert differs == reaches


def test_the_absolute_table_is_used_as_it_is_at_the_pretraining_size(monkeypatch):
    monkeypatch.setattr('torch.nn.functional.interpolate', lambda *args, **kwargs: pytest.fail('resized'))
    toy()(images(64, 64))


def test_the_periods_of_rope_are_taken_from_the_checkpoint():
    model = toy(**ROPE)
    before = model(images())[0]
    state = model.state_dict()
    assert 'rope_embed.periods' in state
    state['rope_embed.periods'] = state['rope_embed.periods'].bfloat16()
    model.load_state_dict(state)
    assert (model(images())[0] - before).abs().max() > 1e-5


def test_out_norm_each_gives_every_output_a_norm_of_its_own():
    model = toy(out_norm='each', out_indices=(1, 3))
    plain = toy(out_indices=(1, 3))
    plain.load_state_dict({k: v for k, v in model.state_dict().items() if k in plain.state_dict()})
    for i, (output, raw) in enumerate(zip(model(images()), plain(images()), strict=True)):
        norm = getattr(model, f'norm{i}')
        expected = norm(raw.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        torch.testing.assert_close(output, expected)


# Weights and depth


def test_the_published_vitdet_backbones_have_the_published_number_of_parameters():
    for arch, global_attn_indexes, count in (  # counted from detectron2's definitions at 1024 x 1024
        ('base', (2, 5, 8, 11), 85_889_024),
        ('large', (5, 11, 17, 23), 303_432_704),
        ('huge', (7, 15, 23, 31), 631_116_800),
    ):
        with torch.device('meta'):
            model = VisionTransformer(
                arch,
                with_cls_token=False,
                window_size=14,
                global_attn_indexes=global_attn_indexes,
                rel_pos='decomposed',
                img_size=1024,
            )
        assert sum(parameter.numel() for parameter in model.parameters()) == count


@pytest.mark.parametrize('arch', ARCHS)
def test_every_named_arch_builds(arch):
    with torch.device('meta'):
        model = VisionTransformer(arch)
    assert len(model.blocks) == ARCHS[arch]['depth']


def test_swiglu_is_two_thirds_as_wide_as_dinov2_and_dinov3_round_it():
    with torch.device('meta'):
        giant = VisionTransformer('giant2', patch_size=14, mlp='swiglu', out_indices=(0,))
        huge = VisionTransformer('huge_plus', mlp='swiglu_split', out_indices=(0,))
    assert giant.blocks[0].mlp.w12.weight.shape == (2 * 4096, 1536)
    assert huge.blocks[0].mlp.w1.weight.shape == (5120, 1280)


def test_a_new_model_starts_small_and_its_bottlenecks_as_the_identity():
    torch.manual_seed(0)
    model = VisionTransformer(TOY, with_cls_token=False, window_size=2, residual_block_indexes=(3,))
    without = VisionTransformer(TOY, with_cls_token=False, window_size=2)
    without.load_state_dict({k: v for k, v in model.state_dict().items() if 'residual' not in k})
    assert 0.015 < model.blocks[0].mlp.fc1.weight.std() < 0.025
    assert torch.equal(model(images())[0], without(images())[0])


@pytest.mark.parametrize(
    ('table', 'options'),
    [
        ('vitdet_vit_b_0.7', dict(WINDOWS, window_size=14, global_attn_indexes=(2, 5, 8, 11))),
        ('mae_vit_b_0.65', dict()),
        ('beit_l_0.95', dict(position='none', rel_pos='bias_table', img_size=64, qkv_bias='qv')),
    ],
)
def test_layer_depths_give_the_official_learning_rates(table, options):
    table = json.loads((LAYER_DECAY / f'{table}.json').read_text())
    arch = dict(embed_dim=24, depth=table['depth'], num_heads=3)
    if 'gamma_1' in ''.join(table['params']):
        options = dict(options, layer_scale_init_value=0.1)
    model = VisionTransformer(arch, **options)
    native = {name.replace('gamma_1', 'ls1.gamma').replace('gamma_2', 'ls2.gamma'): entry
              for name, entry in table['params'].items()}  # fmt: skip
    names = {table['prefix'] + name for name, _ in model.named_parameters()}
    assert names <= set(native)
    for name in names:
        layer_id, num_layers = model.get_layer_depth(name, table['prefix'])
        assert num_layers == table['num_layers'] + 2
        assert table['decay_rate'] ** (num_layers - layer_id - 1) == pytest.approx(
            native[name]['lr_scale']
        ), name


def test_layer_depths_of_everything_the_tables_do_not_have():
    model = toy(num_registers=2, pre_norm=True, out_norm='each', out_indices=(0, 2))
    expected = {'reg_token': 0, 'norm_pre.weight': 0, 'blocks.2.norm1.bias': 3, 'norm1.weight': 5}
    for name, layer_id in expected.items():
        assert model.get_layer_depth(f'backbone.{name}', 'backbone.') == (layer_id, 6)
    assert model.get_layer_depth('neck.simfp_2.0.weight', 'backbone.') == (5, 6)
    bottleneck = toy(with_cls_token=False, residual_block_indexes=(1,))
    assert bottleneck.get_layer_depth('blocks.1.residual.conv1.weight') == (5, 6)
    with pytest.raises(
        ValueError, match=r'blocks\.3\.norm1\.bias.* is no parameter of this VisionTransformer'
    ):
        model.get_layer_depth('blocks.3.norm1.bias')


def test_weights_may_miss_names_only_what_the_model_has_and_checkpoints_lack():
    assert toy().weights_may_miss() == ()
    assert toy(**VARIANTS['vitdet']).weights_may_miss() == ('blocks.*.attn.rel_pos_[hw]',)
    assert toy(out_norm='each').weights_may_miss() == ('norm0.*',)
    assert toy(**ROPE).weights_may_miss() == ('rope_embed.periods',)


def test_a_fresh_process_builds_it_by_name_without_mmcv(run_python):
    done = run_python(
        'import sys\n'
        'from mmengine.registry import MODELS\n'
        'arch = dict(embed_dim=24, depth=2, num_heads=3)\n'
        "MODELS.build(dict(type='backbones.VisionTransformer', arch=arch))\n"
        "MODELS.build(dict(type='backbones.SimpleFPN', in_channels=24))\n"
        "print([name for name in ('mmcv', 'mmdet', 'mmseg', 'torchvision') if name in sys.modules])"
    )
    assert done.stdout.strip().endswith('[]'), done.stderr


# Bad input


@pytest.mark.parametrize(
    ('options', 'sentence'),
    [
        (dict(arch='bse'), r"arch='bse' is unknown; choose one of \['tiny'"),
        (dict(arch=dict(embed_dim=24)), 'or pass dict'),
        (dict(arch=dict(TOY, mlp_raito=4)), 'mlp_raito'),
        (dict(arch=dict(TOY, mlp_ratio=4, mlp_hidden=96)), 'at most one of'),
        (dict(arch=dict(TOY, num_heads=5)), 'num_heads=5 does not divide embed_dim=24'),
        (dict(arch=dict(TOY, depth=0)), r"arch\['depth'\]=0"),
        (dict(arch=dict(TOY, mlp_ratio=0)), r"arch\['mlp_ratio'\]=0"),
        (dict(patch_size=0), 'patch_size=0'),
        (dict(in_channels=2.5), 'in_channels=2.5'),
        (dict(out_indices=(2, 4)), r'out_indices=\(2, 4\) is not possible; .* 0 to 3'),
        (dict(out_indices=()), r'out_indices=\(\)'),
        (dict(pretrain_img_size=8), 'pretrain_img_size=8 .* at least patch_size=16'),
        (dict(position='learned'), "position='learned' is unknown"),
        (dict(pos_interpolation='area'), "pos_interpolation='area' is unknown"),
        (dict(rel_pos=True), 'rel_pos=True is unknown'),
        (dict(mlp='glu'), "mlp='glu' is unknown"),
        (dict(act='relu'), "act='relu' is unknown"),
        (dict(act='quick_gelu', mlp='swiglu'), "act='quick_gelu' has no effect"),
        (dict(qkv_bias=1), 'qkv_bias=1 is unknown'),
        (dict(out_norm=True), 'out_norm=True is unknown'),
        (dict(out_norm='last', out_indices=(1,)), "out_norm='last' is the norm after block 3"),
        (dict(num_registers=-1), 'num_registers=-1'),
        (dict(window_size=-1), 'window_size=-1'),
        (dict(window_size=14), 'window has no room for 1 prefix token.*with_cls_token=False'),
        (dict(window_size=14, with_cls_token=False, num_registers=4), 'no room for 4 prefix token'),
        (dict(window_size=14, with_cls_token=False, global_attn_indexes=(4,)), r'global_attn_indexes=\(4,\)'),
        (dict(global_attn_indexes=(3,)), r'global_attn_indexes=\(3,\) has no effect with window_size=0'),
        (dict(residual_block_indexes=(3,)), 'residual_block_indexes convolves a map'),
        (dict(rel_pos='decomposed', img_size=64), 'no rows for 1 prefix token'),
        (dict(rel_pos='decomposed', with_cls_token=False), "rel_pos='decomposed' needs img_size"),
        (dict(rel_pos='decomposed', with_cls_token=False, img_size=0), 'img_size=0 is not possible'),
        (dict(rel_pos='bias_table'), "rel_pos='bias_table' needs img_size"),
        (dict(rel_pos='bias_table', img_size=64, num_registers=1), 'none for registers or windows'),
        (dict(img_size=64), 'img_size=64 has no effect without relative positions'),
        (dict(arch=dict(TOY, num_heads=4), position='rope'), 'a head width that is a multiple of 4'),
        (dict(layer_scale_init_value=-1), 'layer_scale_init_value=-1'),
        (dict(norm_eps=0), 'norm_eps=0'),
        (dict(drop_path_rate=1.0), 'drop_path_rate=1.0'),
        (dict(frozen_stages=5), 'frozen_stages=5 is not possible'),
    ],
)
def test_bad_arguments_are_refused_with_value_and_remedy(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        VisionTransformer(**{'arch': TOY, **options})


@pytest.mark.parametrize('shape', [(1, 4, 32, 32), (3, 32, 32)])
def test_images_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match=r'was built for \(N, 3, H, W\).*in_channels'):
        toy()(torch.randn(*shape))
