"""ConvNeXt against the official implementations, and what a detector asks of a backbone."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from backbones.convnext import ARCHS, Block, ConvNeXt

TOY = dict(depths=(1, 2, 4, 1), dims=(8, 16, 24, 32))
TOY_ISOTROPIC = dict(depth=4, dim=8)
VARIANTS = [
    pytest.param(dict(arch=TOY, layer_scale_init_value=1.0), id='v1'),
    pytest.param(dict(arch=TOY, use_grn=True), id='v2'),
    pytest.param(dict(arch=TOY_ISOTROPIC, out_indices=(1, 3)), id='isotropic'),
]


def toy(**options) -> ConvNeXt:
    """Build a narrow model with random values everywhere, so that every parameter matters."""
    torch.manual_seed(0)
    model = ConvNeXt(**{'arch': TOY, **options})
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3)
    return model


def images(height: int = 64, width: int = 64, count: int = 2) -> torch.Tensor:
    """Make random images (count, 3, height, width), the same ones each time."""
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(1))


# Shapes


@pytest.mark.parametrize(('height', 'width'), [(64, 96), (67, 93), (32, 32), (101, 45)])
def test_odd_image_sizes_keep_the_stride(height, width):
    outputs = toy()(images(height, width))
    for output, channels, stride in zip(outputs, (8, 16, 24, 32), (4, 8, 16, 32), strict=True):
        assert output.shape == (2, channels, height // stride, width // stride)


@pytest.mark.parametrize('out_indices', [(0,), (3,), (1, 3), [0, 2]])
def test_out_channels_and_out_strides_describe_the_outputs(out_indices):
    model = toy(out_indices=out_indices)
    outputs = model(images())
    assert tuple(output.shape[1] for output in outputs) == model.out_channels
    assert tuple(64 // output.shape[2] for output in outputs) == model.out_strides


def test_an_isotropic_model_returns_its_last_block_at_stride_16():
    model = toy(arch=TOY_ISOTROPIC)
    (output,) = model(images(50, 70))
    assert (model.out_indices, model.out_channels, model.out_strides) == ((3,), (8,), (16,))
    assert output.shape == (2, 8, 3, 4)


@pytest.mark.parametrize('options', VARIANTS)
@pytest.mark.parametrize('memory_format', [torch.contiguous_format, torch.channels_last])
def test_outputs_have_the_memory_format_of_model_and_images(options, memory_format):
    model = toy(**options).to(memory_format=memory_format)
    for output in model(images(96, 128).contiguous(memory_format=memory_format)):
        assert output.is_contiguous(memory_format=memory_format)


@pytest.mark.parametrize('options', VARIANTS)
def test_on_a_cpu_blocks_work_in_channels_last_however_model_and_images_lie(options):
    model = toy(**options)
    layouts = []
    for name, module in model.named_modules():
        if name.endswith('dwconv'):
            module.register_forward_hook(lambda module, given, out: layouts.append(out))
    model(images(96, 128))
    assert layouts and all(out.is_contiguous(memory_format=torch.channels_last) for out in layouts)


@pytest.mark.parametrize('options', VARIANTS)
def test_on_a_cpu_gradients_lie_in_channels_last_too(options):
    model = toy(**options).train()
    layouts = []
    for name, module in model.named_modules():
        if name.endswith('dwconv'):
            module.register_full_backward_hook(lambda module, into, out: layouts.extend([*into, *out]))
    sum(output.square().mean() for output in model(images(96, 128))).backward()
    assert layouts and all(gradient.is_contiguous(memory_format=torch.channels_last) for gradient in layouts)


@pytest.mark.parametrize('options', VARIANTS)
def test_channels_last_changes_no_value(options):
    model = toy(**options)
    expected = model(images())
    outputs = model.to(memory_format=torch.channels_last)(images().to(memory_format=torch.channels_last))
    torch.testing.assert_close(outputs, expected, atol=1e-4, rtol=1e-4, check_stride=False)


def test_in_channels_other_than_3_work():
    assert toy(in_channels=5)(torch.randn(1, 5, 32, 32))[-1].shape == (1, 32, 1, 1)


def test_bfloat16_autocast_gives_nearly_the_same_maps():
    model = toy(use_grn=True)
    expected = model(images())
    with torch.autocast('cpu', dtype=torch.bfloat16):
        outputs = model(images())
    for output, reference in zip(outputs, expected, strict=True):
        assert (output.float() - reference).std() < 0.05 * reference.std()


# Equality with the official implementations


@pytest.mark.parametrize('case', ['', 'b.'])
def test_v1_equals_the_official_classifier_features(reference, case):
    layout = reference('convnext_official')
    arch = dict(depths=layout.meta['arch']['depths'], dims=layout.meta['arch']['dims'])
    model = ConvNeXt(arch, output_norm=False).eval()
    keys = model.load_state_dict(layout.state_dict(), strict=False)
    assert not keys.missing_keys
    assert set(keys.unexpected_keys) == set(layout.meta['not_part_of_a_feature_backbone'])
    for i, output in enumerate(model(layout.tensors[f'{case}input'])):
        layout.assert_close(output, f'{case}out{i}')


def test_v1_with_output_norms_equals_the_official_detector_backbone(reference):
    layout = reference('convnext_official_mmdet')
    arch = dict(depths=layout.meta['arch']['depths'], dims=layout.meta['arch']['dims'])
    model = ConvNeXt(arch).eval()
    model.load_state_dict(layout.state_dict(), strict=True)
    for i, output in enumerate(model(layout.tensors['input'])):
        layout.assert_close(output, f'normed{i}')


def test_v2_equals_the_official_classifier_features(reference):
    layout = reference('convnextv2_official')
    arch = dict(depths=layout.meta['arch']['depths'], dims=layout.meta['arch']['dims'])
    model = ConvNeXt(arch, use_grn=True, output_norm=False).eval()
    keys = model.load_state_dict(layout.state_dict(), strict=False)
    assert not keys.missing_keys
    assert set(keys.unexpected_keys) == set(layout.meta['not_part_of_a_feature_backbone'])
    for i, output in enumerate(model(layout.tensors['input'])):
        layout.assert_close(output, f'out{i}')


def test_isotropic_equals_the_official_block_outputs(reference):
    layout = reference('convnext_isotropic_official')
    arch = dict(depth=layout.meta['arch']['depth'], dim=layout.meta['arch']['dim'])
    model = ConvNeXt(arch, out_indices=layout.meta['block_indexes'], output_norm=False).eval()
    keys = model.load_state_dict(layout.state_dict(), strict=False)
    assert not keys.missing_keys
    assert set(keys.unexpected_keys) == set(layout.meta['not_part_of_a_feature_backbone'])
    for i, output in enumerate(model(layout.tensors['input'])):
        layout.assert_close(output, f'out{i}')


# Sizes. Exact counts of the official model definitions: stages 0 to 3 without and with four output norms.
PARAMETERS = [
    ('tiny', False, 27818592, 27821472),
    ('small', False, 49453152, 49456032),
    ('base', False, 87564416, 87568256),
    ('large', False, 196227264, 196233024),
    ('xlarge', False, 348143872, 348151552),
    ('atto', True, 3386760, 3387960),
    ('femto', True, 4847472, 4848912),
    ('pico', True, 8552256, 8554176),
    ('nano', True, 14981520, 14983920),
    ('tiny', True, 27864960, 27867840),
    ('base', True, 87690752, 87694592),
    ('large', True, 196416768, 196422528),
    ('huge', True, 657467008, 657477568),
]


def count(arch: str, **options) -> int:
    """Count parameters without allocating them."""
    with torch.device('meta'):
        return sum(parameter.numel() for parameter in ConvNeXt(arch, **options).parameters())


@pytest.mark.parametrize(('arch', 'use_grn', 'plain', 'with_norms'), PARAMETERS)
def test_published_sizes_have_the_official_parameter_counts(arch, use_grn, plain, with_norms):
    assert count(arch, use_grn=use_grn, output_norm=False) == plain
    assert count(arch, use_grn=use_grn) == with_norms


@pytest.mark.parametrize(
    ('arch', 'millions'), [('isotropic_small', 22), ('isotropic_base', 87), ('isotropic_large', 306)]
)
def test_isotropic_sizes_have_the_published_parameter_counts(arch, millions):
    dim = ARCHS[arch]['dim']
    classifier = 2 * dim + 1000 * (dim + 1)  # norm and head, counted in the table of the official README
    assert abs((count(arch, output_norm=False) + classifier) / 1e6 - millions) <= 1


@pytest.mark.parametrize(
    ('arch', 'use_grn', 'has_gamma'),
    [
        ('tiny', False, True),
        ('tiny', True, False),
        ('isotropic_small', False, False),
        ('isotropic_base', False, False),
        ('isotropic_large', False, True),
    ],
)
def test_the_default_layer_scale_is_the_official_one(arch, use_grn, has_gamma):
    with torch.device('meta'):
        names = dict(ConvNeXt(arch, use_grn=use_grn).named_parameters())
    assert any(name.endswith('.gamma') and 'grn' not in name for name in names) == has_gamma


def test_fresh_weights_are_those_of_the_official_recipe():
    model = ConvNeXt(TOY)
    block = model.stages[2][0].requires_grad_(False)
    assert (block.gamma == 1e-6).all()
    assert block.pwconv1.weight.std() == pytest.approx(0.02, rel=0.1)
    assert all((m.bias == 0).all() for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear))


def test_stochastic_depth_follows_the_whole_arch_however_many_stages_are_built():
    def rates(model):
        return [module.drop_path.rate for module in model.modules() if isinstance(module, Block)]

    full = rates(toy(drop_path_rate=0.7))
    assert full == pytest.approx(torch.linspace(0, 0.7, 8).tolist(), abs=1e-7)
    assert rates(toy(drop_path_rate=0.7, out_indices=(0, 1))) == full[:3]


# Gradients, freezing, checkpointing


@pytest.mark.parametrize('options', VARIANTS)
def test_every_parameter_gets_a_gradient(options):
    model = toy(**options)
    sum(output.square().sum() for output in model(images())).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize('out_indices', [(0,), (1,), (0, 2), (1, 2, 3)])
@pytest.mark.parametrize('output_norm', [True, False])
def test_every_parameter_gets_a_gradient_for_any_out_indices(out_indices, output_norm):
    model = toy(out_indices=out_indices, output_norm=output_norm)
    sum(output.square().sum() for output in model(images())).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name


@pytest.mark.parametrize('options', VARIANTS)
@pytest.mark.parametrize('frozen_stages', [-1, 1])
def test_checkpointing_changes_neither_outputs_nor_gradients(options, frozen_stages):
    results = []
    for with_cp in (False, True):
        model = toy(**options, with_cp=with_cp, drop_path_rate=0.5, frozen_stages=frozen_stages)
        torch.manual_seed(2)
        outputs = model(images())
        sum(output.square().sum() for output in outputs).backward()
        results.append([*outputs, *(p.grad for p in model.parameters() if p.requires_grad)])
    torch.testing.assert_close(results[0], results[1])


def test_checkpointing_keeps_fewer_activations_for_the_backward_pass():
    def saved(with_cp):
        sizes = []
        model = toy(with_cp=with_cp)
        with torch.autograd.graph.saved_tensors_hooks(lambda x: sizes.append(x.numel()) or x, lambda x: x):
            model(images())
        return sum(sizes)

    assert saved(with_cp=True) < 0.5 * saved(with_cp=False)


@pytest.mark.parametrize(
    ('frozen_stages', 'frozen'),
    [
        (-1, ()),
        (0, ('downsample_layers.0.',)),
        (1, ('downsample_layers.0.', 'stages.0.')),
        (2, ('downsample_layers.0.', 'stages.0.', 'downsample_layers.1.', 'stages.1.')),
        (4, ('downsample_layers.', 'stages.')),
    ],
)
def test_frozen_stages_freezes_the_stem_and_that_many_stages(frozen_stages, frozen):
    model = toy(frozen_stages=frozen_stages)
    sum(output.square().sum() for output in model(images())).backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is None) == name.startswith(frozen), name


def test_frozen_stages_counts_the_blocks_of_an_isotropic_model():
    model = toy(arch=TOY_ISOTROPIC, frozen_stages=2)
    frozen = {name.rsplit('.', 1)[0] for name, p in model.named_parameters() if not p.requires_grad}
    assert {name for name in frozen if name.count('.') < 2} == {'stem'}
    assert {name.split('.')[1] for name in frozen if name.startswith('blocks')} == {'0', '1'}


def test_frozen_stages_stay_in_evaluation_mode_after_train():
    model = toy(frozen_stages=2, drop_path_rate=0.9)
    wrapper = nn.Sequential(model).eval().train()
    modes = {name: module.training for name, module in wrapper[0].named_modules()}
    assert not any(training for name, training in modes.items() if name.startswith(('stages.0', 'stages.1')))
    assert not modes['downsample_layers.0.1']
    assert modes['downsample_layers.2'] and modes['stages.2.0.drop_path'] and modes['norm0'] and modes['']


def test_drop_path_is_off_in_frozen_stages():
    model = toy(frozen_stages=4, drop_path_rate=0.9).train()
    torch.testing.assert_close(model(images()), model(images()))


def test_drop_path_is_on_in_training():
    model = toy(drop_path_rate=0.9).train()
    assert not torch.equal(model(images())[-1], model(images())[-1])


# Weights


def test_a_checkpoint_may_lack_the_output_norms_only():
    assert ConvNeXt(TOY, out_indices=(1, 3)).weights_may_miss() == ('norm1.*', 'norm3.*')
    assert ConvNeXt(TOY, output_norm=False).weights_may_miss() == ()


@pytest.mark.parametrize('layout', ['convnext_official', 'convnext_official_mmdet'])
def test_init_weights_loads_the_checkpoint_of_init_cfg(reference, layout):
    layout = reference(layout)
    arch = dict(depths=layout.meta['arch']['depths'], dims=layout.meta['arch']['dims'])
    model = ConvNeXt(arch, init_cfg=dict(type='Pretrained', checkpoint=str(layout.checkpoint)))
    model.init_weights()
    torch.testing.assert_close(model.stages[2][1].gamma.data, layout.state_dict()['stages.2.1.gamma'])


def test_init_weights_without_a_checkpoint_follows_init_cfg():
    model = ConvNeXt(TOY, init_cfg=dict(type='Constant', layer='Linear', val=0.5))
    model.init_weights()
    assert (model.stages[0][0].pwconv1.weight == 0.5).all()


# Bad input


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(arch='giant'), r"arch='giant' is unknown; choose one of \['atto', .*pass dict\(depths="),
        (dict(arch=dict(depths=(1, 1, 1, 1), channels=(8,))), r'channels.* is no ConvNeXt; choose one'),
        (dict(arch=dict(depths=(1, 1, 1), dims=(8, 8, 8, 8))), r"arch\['depths'\]=\(1, 1, 1\) is not four"),
        (dict(arch=dict(depths=(1, 0, 1, 1), dims=(8, 8, 8, 8))), r"arch\['depths'\]\[1\]=0 is no whole"),
        (dict(arch=dict(depth=3, dim=0.5)), r"arch\['dim'\]=0.5 is no whole number"),
        (dict(arch=None), r'arch=None is no ConvNeXt'),
        (dict(out_indices=(0, 4)), r'out_indices=\(0, 4\) is not possible; .* from 0 to 3'),
        (dict(out_indices=(-1,)), r'out_indices=\(-1,\) is not possible'),
        (dict(out_indices=(2, 1)), r'out_indices=\(2, 1\) .* ascending order'),
        (dict(out_indices=(1, 1)), r'out_indices=\(1, 1\) .* different numbers'),
        (dict(arch=TOY_ISOTROPIC, out_indices=(4,)), r'out_indices=\(4,\) is not possible; .* from 0 to 3'),
        (dict(frozen_stages=5), r'frozen_stages=5 is not possible; give -1 .* 1 to 4'),
        (dict(frozen_stages=-2), r'frozen_stages=-2 is not possible'),
        (dict(frozen_stages=3, out_indices=(0, 1)), r'frozen_stages=3 .* 1 to 2 .*out_indices=\(0, 1\)'),
        (dict(drop_path_rate=1.0), r'drop_path_rate=1.0 is not a rate'),
        (dict(drop_path_rate=-0.1), r'drop_path_rate=-0.1 is not a rate'),
        (dict(layer_scale_init_value=-1.0), r'layer_scale_init_value=-1.0 is not possible; give a number'),
        (dict(layer_scale_init_value=math.nan), r'layer_scale_init_value=nan is not possible'),
        (dict(norm_eps='1e-6'), r"norm_eps='1e-6' is not possible; give a positive number"),
        (dict(in_channels=0), r'in_channels=0 is no whole number'),
    ],
)
def test_a_wrong_argument_is_refused_with_its_value_and_the_remedy(options, message):
    with pytest.raises(ValueError, match=message):
        ConvNeXt(**{'arch': TOY, **options})


def test_an_unknown_argument_is_not_swallowed():
    with pytest.raises(TypeError, match='drop_path_rates'):
        ConvNeXt(TOY, drop_path_rates=0.1)


def test_what_the_caller_passed_is_not_changed():
    arch = dict(depths=[1, 1, 1, 1], dims=[8, 8, 8, 8])
    ConvNeXt(arch).arch['depths'] = None
    assert arch == dict(depths=[1, 1, 1, 1], dims=[8, 8, 8, 8])


@pytest.mark.parametrize('shape', [(1, 4, 64, 64), (3, 64, 64), (1, 64, 64, 3)])
def test_images_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match=r'was built for \(N, 3, H, W\); give images with 3 channels'):
        toy()(torch.zeros(shape))


def test_images_smaller_than_the_last_stride_are_refused():
    with pytest.raises(ValueError, match=r'images of 64 x 31 pixels, but its last output has stride 32'):
        toy()(images(64, 31))
    assert toy(out_indices=(0, 1))(images(64, 31))[-1].shape == (2, 16, 8, 3)
