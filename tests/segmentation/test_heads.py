"""UperNet's heads are mmseg's, with the same losses from less memory."""

from __future__ import annotations

import pytest
import torch
from torch import nn

pytest.importorskip('mmseg')
from mmengine.registry import init_default_scope
from mmengine.structures import PixelData
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample

NORM = dict(type='BN', requires_grad=True)
HEADS = dict(
    UPerHead=dict(in_channels=[4, 6], in_index=[0, 1], channels=8, num_classes=5, dropout_ratio=0.0, norm_cfg=NORM),
    FCNHead=dict(in_channels=6, in_index=1, channels=8, num_classes=5, num_convs=1, concat_input=False,
                 dropout_ratio=0.0, norm_cfg=NORM))
LOSSES = {
    'plain': {},
    'weighted': dict(loss_decode=dict(type='CrossEntropyLoss', loss_weight=0.4)),
    'non-ignored': dict(loss_decode=dict(type='CrossEntropyLoss', avg_non_ignore=True, loss_name='loss_other')),
    'class weights': dict(loss_decode=dict(type='CrossEntropyLoss', class_weight=[1.0, 2.0, 1.0, 0.5, 1.0])),
    'two losses': dict(loss_decode=[dict(type='CrossEntropyLoss'), dict(type='DiceLoss', loss_name='loss_dice')]),
    'ohem': dict(sampler=dict(type='OHEMPixelSampler', thresh=0.7, min_kept=20)),
    'corners': dict(align_corners=True),
}


@pytest.fixture(params=HEADS)
def pair(request: pytest.FixtureRequest) -> tuple[str, dict]:
    """A head's name and settings."""
    init_default_scope('mmseg')
    return request.param, HEADS[request.param]


def build(name: str, settings: dict) -> nn.Module:
    """A head whose weights are always the same."""
    torch.manual_seed(0)
    head = MODELS.build(dict(type=name, **settings))
    for value in head.parameters():
        nn.init.normal_(value, std=0.3, generator=torch.Generator().manual_seed(value.numel()))
    return head


def losses(head: nn.Module) -> tuple[dict[str, torch.Tensor], list[torch.Tensor]]:
    """Losses of two images, and the gradients of all parameters."""
    generator = torch.Generator().manual_seed(1)
    maps = [torch.randn(2, 4, 12, 8, generator=generator), torch.randn(2, 6, 6, 4, generator=generator)]
    labels = torch.randint(0, 5, (2, 1, 48, 32), generator=generator)
    labels[:, :, :10] = 255
    samples = [SegDataSample(gt_sem_seg=PixelData(data=label)) for label in labels]
    found = head.loss(maps, samples, None)
    sum(value for name, value in found.items() if 'loss' in name).backward()
    return found, [value.grad for value in head.parameters()]


@pytest.mark.parametrize('kind', LOSSES)
def test_losses_accuracy_and_gradients_are_those_of_mmseg(pair: tuple[str, dict], kind: str) -> None:
    name, settings = pair
    (expected, gradients), (found, own) = (
        losses(build(which, dict(settings, **LOSSES[kind]))) for which in (name, f'backbones.{name}'))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(own, gradients, rtol=1e-4, atol=1e-5)


def test_no_tensor_of_upsampled_scores_is_made(pair: tuple[str, dict]) -> None:
    from torch.utils._python_dispatch import TorchDispatchMode

    class Sizes(TorchDispatchMode):
        largest = 0

        def __torch_dispatch__(self, function, kinds, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor) and out.is_floating_point():
                self.largest = max(self.largest, out.numel())
            return out

    from backbones.segmentation import upsampled_loss

    whole, sizes = 2 * 5 * 48 * 32, {}
    for name in (pair[0], f'backbones.{pair[0]}'):
        head = build(name, pair[1])
        with pytest.MonkeyPatch.context() as patch, Sizes() as seen:
            patch.setitem(upsampled_loss.VALUES, 'cpu', whole // 16)
            losses(head)
        sizes[name] = seen.largest
    assert sizes[pair[0]] >= whole > 4 * sizes[f'backbones.{pair[0]}']


def test_the_parameters_are_named_as_mmsegs(pair: tuple[str, dict]) -> None:
    name, settings = pair
    assert list(build(f'backbones.{name}', settings).state_dict()) == list(build(name, settings).state_dict())


def test_a_misspelt_argument_is_refused(pair: tuple[str, dict]) -> None:
    with pytest.raises(TypeError, match='chanels'):
        build(f'backbones.{pair[0]}', dict(pair[1], chanels=3))
