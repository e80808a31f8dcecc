"""Learning rates by depth and weight decay by rule: groups, rules, custom keys, mistakes."""

from __future__ import annotations

import re

import pytest
import torch
from layer_decay_helpers import Model, Plain, construct, settings
from mmengine.config import ConfigDict
from mmengine.optim import LinearLR
from torch import nn

from backbones.convnext import ConvNeXt
from backbones.layer_decay import WEIGHT_DECAY_RULES, LayerDecayOptimWrapperConstructor
from backbones.layers import GRN
from backbones.vit import VisionTransformer

TINY = dict(depths=(1, 1, 4, 1), dims=(8, 16, 24, 32))


# --- groups -------------------------------------------------------------------------------------------------


def test_parameters_of_equal_settings_share_one_group() -> None:
    optimizer = construct(Model(ConvNeXt(TINY)), decay_rate=0.7)
    keys = [(group['lr'], group['weight_decay']) for group in optimizer.param_groups]
    assert len(keys) == len(set(keys)) == 14  # 7 depths, each with and without decay


def test_every_trainable_parameter_is_in_exactly_one_group() -> None:
    model = Model(ConvNeXt(TINY))
    optimizer = construct(model, decay_rate=0.7)
    grouped = [id(value) for group in optimizer.param_groups for value in group['params']]
    assert sorted(grouped) == sorted(id(value) for value in model.parameters())


def test_a_subclass_that_loses_a_parameter_is_refused() -> None:
    class Careless(LayerDecayOptimWrapperConstructor):
        def _groups(self, model: nn.Module) -> list:
            groups = super()._groups(model)
            groups[0].params.pop()
            return groups

    cfg = dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=1.0, weight_decay=0.1))
    with pytest.raises(
        RuntimeError, match=r"8 trainable parameters, 7 places.*in no group: \['backbone.layers.0.bias'\]"
    ):
        Careless(cfg, dict(decay_rate=0.5))(Model(Plain()))


def test_groups_say_how_deep_they_are() -> None:
    optimizer = construct(Model(Plain()), decay_rate=0.5, lr=2.0)
    seen = {(group['depth'], group['lr_scale'], group['lr']) for group in optimizer.param_groups}
    assert seen == {('0', 0.125, 0.25), ('1', 0.25, 0.5), ('2', 0.5, 1.0), ('head', 1.0, 2.0)}


def test_equal_learning_rates_make_two_groups() -> None:
    optimizer = construct(Model(Plain()), decay_rate=1.0)
    assert [group['depth'] for group in optimizer.param_groups] == ['0-2, head', '0-2, head']


def test_frozen_parameters_are_left_out() -> None:
    model = Model(ConvNeXt(TINY, frozen_stages=1))
    found = settings(model, construct(model, decay_rate=0.7))
    assert set(found) == {name for name, value in model.named_parameters() if value.requires_grad}


def test_a_shared_parameter_counts_once() -> None:
    model = Model(Plain())
    model.second_head = nn.Conv2d(8, 4, 1)
    model.second_head.weight = model.head.weight
    optimizer = construct(model, decay_rate=0.5)
    grouped = [id(value) for group in optimizer.param_groups for value in group['params']]
    assert grouped.count(id(model.head.weight)) == 1


def test_a_model_that_is_the_backbone_itself_works() -> None:
    model = Plain()
    assert settings(model, construct(model, decay_rate=0.5))['layers.0.weight'] == (0.125, 0.05)


def test_each_of_two_backbones_decays() -> None:
    model = nn.ModuleDict(dict(left=Model(Plain()), right=Model(Plain())))
    found = settings(model, construct(model, decay_rate=0.5))
    assert found['left.backbone.layers.0.weight'] == found['right.backbone.layers.0.weight'] == (0.125, 0.05)


def test_a_model_wrapped_for_distributed_training_has_the_same_groups() -> None:
    model = Model(Plain())
    wrapped = torch.nn.parallel.DataParallel(
        model
    )  # MMEngine knows it as a wrapper, and it needs no process group
    assert settings(model, construct(wrapped, decay_rate=0.5)) == settings(
        model, construct(model, decay_rate=0.5)
    )


def test_a_compiled_backbone_has_the_same_learning_rates() -> None:
    model = Model(Plain())
    expected = settings(model, construct(model, decay_rate=0.5))
    model.backbone = torch.compile(model.backbone)
    found = settings(model, construct(model, decay_rate=0.5))
    assert {name.replace('_orig_mod.', ''): value for name, value in found.items()} == expected


def test_schedulers_scale_every_group() -> None:
    optimizer = construct(Model(Plain()), decay_rate=0.5)
    before = [group['lr'] for group in optimizer.param_groups]
    LinearLR(optimizer, start_factor=0.1, by_epoch=False, end=10)
    assert [group['lr'] for group in optimizer.param_groups] == pytest.approx([0.1 * lr for lr in before])


def test_the_optimiser_state_can_be_saved_and_read_back() -> None:
    model = Model(Plain())
    state = construct(model, decay_rate=0.5).state_dict()
    other = construct(model, decay_rate=0.5)
    other.load_state_dict(state)
    assert [group['depth'] for group in other.param_groups] == [
        group['depth'] for group in state['param_groups']
    ]


def test_the_table_is_logged_once(monkeypatch: pytest.MonkeyPatch) -> None:
    logged = []
    monkeypatch.setattr('backbones.layer_decay.print_log', lambda text, logger: logged.append(text))
    construct(Model(Plain()), decay_rate=0.5, lr=1e-3)
    (text,) = logged
    assert 'layer_wise decay 0.5 of lr 0.001, 8 tensors in 8 groups' in text
    assert re.search(r'depth +tensors +parameters +lr +lr scale +weight decay +first', text)
    assert re.search(r'\n *0 +1 +2 +0\.000125 +0\.125 +0 +backbone\.layers\.0\.bias', text)


# --- weight decay -------------------------------------------------------------------------------------------


def test_matrices_only_exempts_everything_but_matrices() -> None:
    convnext = ConvNeXt(TINY, use_grn=True, layer_scale_init_value=1.0)
    vit = VisionTransformer(
        dict(embed_dim=8, depth=1, num_heads=2),
        position='none',
        rel_pos='bias_table',
        img_size=32,
        qkv_bias='qv',
        layer_scale_init_value=1.0,
    )
    positions = VisionTransformer(dict(embed_dim=8, depth=1, num_heads=2), num_registers=2)
    windows = VisionTransformer(
        dict(embed_dim=8, depth=1, num_heads=2), with_cls_token=False, rel_pos='decomposed', img_size=32
    )
    model = nn.ModuleDict(dict(a=convnext, b=vit, c=positions, d=windows))
    model['objectness'] = nn.Conv2d(8, 1, 1)  # (1, 8, 1, 1), which looks like a GRN vector
    found = settings(model, construct(model, decay_rate=0.9, weight_decay_rule='matrices_only'))
    decayed = {name for name, (_, weight_decay) in found.items() if weight_decay}
    layers = r'dwconv|pwconv\d|proj|qkv|fc\d|objectness|downsample_layers\.0\.0|downsample_layers\.[123]\.1'
    matrices = rf'.*({layers})\.weight'
    assert decayed == {name for name in found if re.fullmatch(matrices, name)}


def test_grn_is_decayed_by_the_convnext_rule_as_in_the_official_code() -> None:
    model = Model(nn.Sequential(Plain(), GRN(4)))
    found = settings(model, construct(model, decay_rate=0.9))
    assert found['backbone.1.gamma'] == (1.0, 0.05)


def test_vitdet_huge_decays_everything() -> None:
    model = Model(VisionTransformer(dict(embed_dim=8, depth=1, num_heads=2)))
    found = settings(model, construct(model, decay_rate=0.9, weight_decay_rule='vitdet_huge'))
    assert {weight_decay for _, weight_decay in found.values()} == {0.05}


def test_a_plain_vit_must_name_its_rule() -> None:
    model = Model(VisionTransformer(dict(embed_dim=8, depth=1, num_heads=2)))
    with pytest.raises(ValueError, match=r"(?s)VisionTransformer.*weight_decay_rule=.*'mae': MAE"):
        construct(model, decay_rate=0.9)


# --- custom keys --------------------------------------------------------------------------------------------


def test_custom_keys_multiply_the_decayed_learning_rate() -> None:
    model = Model(Plain())
    found = settings(model, construct(model, decay_rate=0.5, custom_keys={'layers.0': dict(lr_mult=0.1)}))
    assert found['backbone.layers.0.weight'] == pytest.approx((0.0125, 0.05))
    assert found['backbone.layers.0.bias'] == pytest.approx(
        (0.0125, 0.0)
    )  # the rule holds without decay_mult


def test_decay_mult_replaces_the_rule() -> None:
    model = Model(Plain())
    found = settings(model, construct(model, decay_rate=0.5, custom_keys={'head': dict(decay_mult=2.0)}))
    assert found['head.bias'] == (1.0, 0.1)


def test_the_longest_custom_key_wins() -> None:
    model = Model(Plain())
    keys = {'layers': dict(lr_mult=3.0), 'layers.1.weight': dict(lr_mult=5.0)}
    found = settings(model, construct(model, decay_rate=1.0, custom_keys=keys))
    assert found['backbone.layers.1.weight'][0] == 5.0
    assert found['backbone.layers.1.bias'][0] == 3.0


def test_configs_of_mmengine_are_accepted_as_they_are() -> None:
    cfg = ConfigDict(decay_rate=0.5, custom_keys=dict(head=dict(lr_mult=10.0)))
    model = Model(Plain())
    assert settings(model, construct(model, **cfg))['head.weight'][0] == 10.0


# --- mistakes -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    'cfg, message',
    [
        ({}, r'decay_rate=None is not in \(0, 1\]'),
        (dict(decay_rate=1.2), r'decay_rate=1.2 is not in'),
        (dict(decay_rate=0), r'decay_rate=0 is not in'),
        (dict(decay_rate='0.7'), r"decay_rate='0.7' is not in"),
        (dict(decay_rat=0.7), r"unknown key 'decay_rat' \(did you mean 'decay_rate'\?\)"),
        (dict(decay_rate=0.7, norm_decay_mult=0), r"unknown key 'norm_decay_mult'"),
        (dict(decay_rate=0.7, decay_type='layerwise'), r"decay_type='layerwise' is unknown; choose one of"),
        (dict(decay_rate=0.7, weight_decay_rule='swin'), r"weight_decay_rule='swin' is unknown"),
        (
            dict(decay_rate=0.7, custom_keys={'neck': dict(lr_mult=2.0)}),
            r"custom_keys \['neck'\] decide about no",
        ),
        (
            dict(decay_rate=0.7, custom_keys={'head': dict(lr_mul=2.0)}),
            r"unknown key 'lr_mul' \(did you mean 'lr_mult'",
        ),
        (
            dict(decay_rate=0.7, custom_keys={'head': dict(lr_mult=-1)}),
            r'lr_mult=-1 is no number of 0 or more',
        ),
        (dict(decay_rate=0.7, custom_keys={'head': 2.0}), r'is no dict of dicts'),
        (
            dict(decay_rate=0.7, decay_type='stage_wise'),
            r"without the method get_stage_depth.*decay_type='layer_wise'",
        ),
        (dict(decay_rate=0.7, num_layers=12), r'num_layers=12 does not fit backbone \(Plain\), which has 2'),
    ],
)
def test_wrong_settings_are_refused(cfg: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        construct(Model(Plain()), **cfg)


@pytest.mark.parametrize(
    'optimizer', [dict(type='AdamW', lr=1e-4), dict(type='AdamW', weight_decay=0.1), None]
)
def test_an_optimiser_without_rates_is_refused(optimizer: dict | None) -> None:
    with pytest.raises(ValueError, match=r'weight_decay=None|lr=None|has no optimizer'):
        LayerDecayOptimWrapperConstructor(dict(optimizer=optimizer), dict(decay_rate=0.7))


def test_a_backbone_without_depth_is_named() -> None:
    with pytest.raises(
        ValueError, match=r"backbone is a Linear without the method get_layer_depth.*'backbones.ConvNeXt'"
    ):
        construct(Model(nn.Linear(2, 2)), decay_rate=0.7)


def test_a_model_without_backbone_is_refused() -> None:
    with pytest.raises(ValueError, match='no part of Linear is a backbone'):
        construct(nn.Linear(2, 2), decay_rate=0.7)


def test_a_scale_above_one_is_refused() -> None:
    class TooDeep(Plain):
        def get_layer_depth(self, param_name: str, prefix: str = '') -> tuple[int, int]:
            return 4, 4

    with pytest.raises(
        ValueError, match=r'TooDeep.get_layer_depth.*gave \(4, 4\).*scaled above the base rate'
    ):
        construct(Model(TooDeep()), decay_rate=0.7)


def test_a_model_without_trainable_parameters_is_refused() -> None:
    with pytest.raises(ValueError, match='no trainable parameter'):
        construct(Plain().requires_grad_(False), decay_rate=0.7)


def test_every_rule_has_a_sentence() -> None:
    assert all(len(rule.about) > 20 for rule in WEIGHT_DECAY_RULES.values())
