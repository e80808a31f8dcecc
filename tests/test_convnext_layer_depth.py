"""How deep ConvNeXt says its parameters lie, against tables made with the official optimiser constructor."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from backbones.convnext import ARCHS, ConvNeXt

TOY = dict(depths=(1, 2, 4, 1), dims=(8, 16, 24, 32))
TOY_ISOTROPIC = dict(depth=4, dim=8)
LAYER_DECAY = Path(__file__).parent / 'references' / 'layer_decay'


def read_layer_decay(name: str) -> tuple[dict, ConvNeXt]:
    """Read a table computed with the official optimiser constructor and build its model."""
    table = json.loads((LAYER_DECAY / f'{name}.json').read_text())
    with torch.device('meta'):
        return table, ConvNeXt(dict(depths=table['depths'], dims=table['dims']))


@pytest.mark.parametrize('name', ['convnext_t_layer_wise_6_0.95', 'convnext_b_layer_wise_12_0.8'])
def test_layer_depths_give_the_official_learning_rates(name):
    table, model = read_layer_decay(name)
    for parameter, entry in table['params'].items():
        layer_id, num_layers = model.get_layer_depth(parameter, table['prefix'])
        assert num_layers == table['num_layers'] + 2
        scale = table['decay_rate'] ** (num_layers - layer_id - 1)
        assert scale == pytest.approx(entry['lr_scale']), parameter


def test_stage_depths_give_the_official_learning_rates():
    table, model = read_layer_decay('convnext_t_stage_wise_6_0.9')
    for parameter, entry in table['params'].items():
        stage_id, num_layers = model.get_stage_depth(parameter, table['prefix'])
        scale = table['decay_rate'] ** (num_layers - stage_id - 1)
        assert scale == pytest.approx(entry['lr_scale']), parameter


def test_the_official_tables_name_every_parameter_of_the_backbone():
    table, model = read_layer_decay('convnext_b_layer_wise_12_0.8')
    assert {f'backbone.{name}' for name, _ in model.named_parameters()} <= set(table['params'])


@pytest.mark.parametrize('arch', ARCHS)
def test_no_size_has_a_layer_id_above_the_last(arch):
    with torch.device('meta'):
        model = ConvNeXt(arch)
    depths = [model.get_layer_depth(name) for name, _ in model.named_parameters()]
    assert all(0 <= layer_id < num_layers for layer_id, num_layers in depths)


@pytest.mark.parametrize(
    ('name', 'layer_id'),
    [('stem.weight', 0), ('blocks.0.gamma', 1), ('blocks.3.norm.bias', 4), ('norm3.weight', 5), ('head', 5)],
)
def test_each_block_of_an_isotropic_model_has_its_own_layer_id(name, layer_id):
    model = ConvNeXt(TOY_ISOTROPIC, layer_scale_init_value=1.0)
    prefix = '' if name != 'head' else 'backbone.'
    assert model.get_layer_depth(name, prefix) == (layer_id, 6)


def test_an_isotropic_model_has_no_stage_depth():
    with pytest.raises(ValueError, match="no stages; use decay_type='layer_wise'"):
        ConvNeXt(TOY_ISOTROPIC).get_stage_depth('stem.weight')


def test_layer_ids_do_not_depend_on_the_stages_that_were_built():
    full, part = ConvNeXt(TOY), ConvNeXt(TOY, out_indices=(1, 2))
    for name, _ in part.named_parameters():
        assert part.get_layer_depth(name) == full.get_layer_depth(name), name


@pytest.mark.parametrize('name', ['backbone.stages.0.0.gama', 'backbone.stages.9.0.gamma', 'backbone.head'])
@pytest.mark.parametrize('method', ['get_layer_depth', 'get_stage_depth'])
def test_a_parameter_the_backbone_does_not_have_is_refused(name, method):
    with pytest.raises(ValueError, match=f'{name!r} is no parameter of this ConvNeXt'):
        getattr(ConvNeXt(TOY), method)(name, prefix='backbone.')


@pytest.mark.parametrize('method', ['get_layer_depth', 'get_stage_depth'])
def test_a_parameter_outside_of_the_backbone_has_the_largest_id(method):
    layer_id, num_layers = getattr(ConvNeXt(TOY), method)('neck.fpn_convs.0.conv.weight', prefix='backbone.')
    assert layer_id == num_layers - 1
