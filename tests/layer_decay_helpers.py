"""Small models, and optimisers built for them the way a config does."""

from __future__ import annotations

import torch
from mmengine.optim import build_optim_wrapper
from torch import nn


class Model(nn.Module):
    """A backbone with a head."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = nn.Conv2d(8, 4, 1)


class Plain(nn.Module):
    """A backbone of three layers that knows its depth."""

    weight_decay_rule = 'convnext'

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(2, 2) for _ in range(3))

    def get_layer_depth(self, param_name: str, prefix: str = '') -> tuple[int, int]:
        """Layer i has the id i; 3 is everything else."""
        name = param_name[len(prefix) :]
        return (int(name.split('.')[1]) if name.startswith('layers.') else 3), 4


def construct(
    model: nn.Module, *, lr: float = 1.0, weight_decay: float = 0.05, **paramwise_cfg
) -> torch.optim.Optimizer:
    """Build the optimiser by the name a config uses."""
    wrapper = build_optim_wrapper(
        model,
        dict(
            type='OptimWrapper',
            constructor='backbones.LayerDecayOptimWrapperConstructor',
            optimizer=dict(type='AdamW', lr=lr, weight_decay=weight_decay),
            paramwise_cfg=paramwise_cfg,
        ),
    )
    return wrapper.optimizer


def settings(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, tuple[float, float]]:
    """Give (lr, weight decay) by parameter name."""
    names = {id(value): name for name, value in model.named_parameters()}
    return {
        names[id(value)]: (group['lr'], group['weight_decay'])
        for group in optimizer.param_groups
        for value in group['params']
    }
