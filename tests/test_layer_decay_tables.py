"""Learning rate and weight decay of every parameter, against the tables of the official code."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from layer_decay_helpers import construct, settings
from torch import nn

from backbones.convnext import ConvNeXt
from backbones.layers import LayerNorm2d
from backbones.vit import VisionTransformer

TABLES = Path(__file__).parent / 'references' / 'layer_decay'


def read_table(name: str) -> dict:
    """Load one reference table."""
    return json.loads((TABLES / f'{name}.json').read_text())


def add_parameter(model: nn.Module, name: str) -> None:
    """Put a parameter of a head or neck into `model`, in a module of the kind its name tells."""
    *path, leaf = name.split('.')
    for piece in path:
        if piece not in dict(model.named_children()):
            model.add_module(piece, nn.Module())
        model = model.get_submodule(piece)
    owner = '.'.join(path)
    if re.search(r'(\.bn|fpn1\.1)$', owner):
        model.__class__ = type('Norm', (nn.BatchNorm2d,), {})
    elif re.search(r'(\.norm|simfp_2\.1)$', owner):
        model.__class__ = type('Norm', (LayerNorm2d,), {})
    elif owner == 'fc_norm':
        model.__class__ = type('Norm', (nn.LayerNorm,), {})
    is_vector = leaf == 'bias' or isinstance(model, nn.BatchNorm2d | nn.LayerNorm)
    model.register_parameter(leaf, nn.Parameter(torch.empty((4,) if is_vector else (4, 4), device='meta')))


def like_table(backbone: nn.Module, names: list[str]) -> nn.Module:
    """Give `backbone` the heads of a table."""
    model = nn.Module()
    model.backbone = backbone
    for name in names:
        if not name.startswith('backbone.'):
            add_parameter(model, name)
    return model


def native_name(name: str) -> str:
    """Translate a name of the BEiT, MAE and ViTDet tables; pyramids inside a backbone are necks here."""
    name = re.sub(r'^backbone\.(fpn|simfp)', r'neck.\1', name).replace('backbone.net.', 'backbone.')
    name = re.sub(r'\.gamma_([12])$', r'.ls\1.gamma', name)
    return (
        name
        if re.match(r'(backbone|neck|fc_norm|head|[a-z_]+_head|[a-z_]+heads?|proposal)', name)
        else f'backbone.{name}'
    )


def vit_for(name: str) -> VisionTransformer:
    """Build the full-size ViT of a table on the meta device."""
    options = {
        'beit_l_0.95': dict(
            arch='large',
            position='none',
            rel_pos='bias_table',
            qkv_bias='qv',
            layer_scale_init_value=0.1,
            img_size=640,
        ),
        'mae_vit_b_0.65': dict(arch='base'),
        'vitdet_vit_b_0.7': dict(
            arch='base',
            with_cls_token=False,
            window_size=14,
            global_attn_indexes=(2, 5, 8, 11),
            rel_pos='decomposed',
            img_size=1024,
        ),
    }
    with torch.device('meta'):
        return VisionTransformer(**options[name])


def check_against(name: str, model: nn.Module, expected: dict, **paramwise_cfg) -> None:
    """Hold every parameter against its row of the table."""
    table = read_table(name)
    optimizer = construct(
        model, weight_decay=table['base_weight_decay'], decay_rate=table['decay_rate'], **paramwise_cfg
    )
    found = settings(model, optimizer)
    assert set(found) == set(expected)
    for parameter, row in expected.items():
        assert found[parameter] == pytest.approx((row['lr_scale'], row['weight_decay']), rel=1e-12), parameter


@pytest.mark.parametrize(
    'name, arch, decay_type',
    [
        ('convnext_t_layer_wise_6_0.95', 'tiny', 'layer_wise'),
        ('convnext_b_layer_wise_12_0.8', 'base', 'layer_wise'),
        ('convnext_t_stage_wise_6_0.9', 'tiny', 'stage_wise'),
    ],
)
def test_convnext_has_the_official_learning_rates_and_weight_decays(
    name: str, arch: str, decay_type: str
) -> None:
    table = read_table(name)
    with torch.device('meta'):
        backbone = ConvNeXt(arch, layer_scale_init_value=1.0)
    model = like_table(backbone, list(table['params']))
    check_against(name, model, table['params'], decay_type=decay_type, num_layers=table['num_layers'])


@pytest.mark.parametrize(
    'name, rule', [('beit_l_0.95', 'beit'), ('mae_vit_b_0.65', 'mae'), ('vitdet_vit_b_0.7', 'vitdet')]
)
def test_vit_has_the_official_learning_rates_and_weight_decays(name: str, rule: str) -> None:
    expected = {native_name(parameter): row for parameter, row in read_table(name)['params'].items()}
    model = like_table(vit_for(name), list(expected))
    check_against(name, model, expected, weight_decay_rule=rule)


def test_the_hazard_of_a_wrong_num_layers_is_refused() -> None:
    table = read_table('hazard_convnext_s_layer_wise_6_0.7')
    assert max(row['lr_scale'] for row in table['params'].values()) > 4
    with torch.device('meta'):
        model = like_table(ConvNeXt('small'), list(table['params']))
    with pytest.raises(ValueError, match=r'num_layers=6 does not fit backbone \(ConvNeXt\), which has 12'):
        construct(model, decay_rate=table['decay_rate'], num_layers=table['num_layers'])
    found = settings(model, construct(model, decay_rate=table['decay_rate']))
    assert set(found) == set(table['params'])
    assert max(lr for lr, _ in found.values()) == 1.0
