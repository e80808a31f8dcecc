"""What ours is compared with. A peer turns our backbone into theirs with the same weights, or says why it cannot."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from mmengine.config import Config
from torch import Tensor, nn

from backbones.benchmark import hf, mmpretrain_peer, stock, timm_peer
from backbones.benchmark.models import build, set_threshold
from backbones.benchmark.names import pick
from backbones.benchmark.skipping import Skipped


@dataclass(frozen=True)
class Peer:
    """One side to compare with.

    Attributes:
        name: as `--against` takes it.
        about: what it stands for.
        backbone: our backbone (plain, on the CPU) to theirs with equal weights; raises `Skipped`.
    """

    name: str
    about: str
    backbone: Callable[[nn.Module], nn.Module]


PEERS = {peer.name: peer for peer in (
    Peer('mmpretrain', "mmpretrain's backbone; whole models with the heads of mmdet and mmseg",
         mmpretrain_peer.backbone),
    Peer('timm', "timm's backbone, the same heads", timm_peer.backbone),
    Peer('hf', "the backbone of Hugging Face's transformers, the same heads", hf.backbone),
    Peer('stock', "the backbone and heads of mmdet and mmseg; for ConvNeXt mmpretrain's backbone or its stand-in",
         stock.backbone),
)}


class Contiguous(nn.Module):
    """A backbone whose maps lie in memory as (N, C, H, W), which the stock heads need.

    mmcv's RoIAlign reads NHWC memory as if it were NCHW, without a word, and transformers and ours return such maps.
    """

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Maps of the backbone."""
        return tuple(value.contiguous() for value in self.backbone(x))


def chosen(names: list[str]) -> list[Peer]:
    """The peers of these names.

    Raises:
        ValueError: for an unknown one.
    """
    return pick(names, PEERS, '--against', 'peer')


def peer_backbone(peer: Peer, ours: nn.Module) -> nn.Module:
    """Their backbone with our weights, frozen where ours is.

    Raises:
        Skipped: the peer is not installed or has no such backbone.
    """
    try:
        theirs = peer.backbone(ours)
    except Skipped:
        raise
    except ImportError as error:
        raise Skipped(f'not installed here ({error})') from error
    except (RuntimeError, ValueError, TypeError, AttributeError, KeyError) as error:
        raise Skipped(f'its backbone does not take our weights ({_line(error)})') from error
    trained = [parameter.requires_grad for parameter in ours.parameters()]
    if not any(trained):
        theirs.requires_grad_(False)
    theirs.eval()  # mmpretrain's returns nothing
    return theirs


def peer_model(peer: Peer, ours: nn.Module, cfg: Config, threshold: float | None) -> nn.Module:
    """The whole model with their backbone and the stock heads, weights equal to those of ours.

    Raises:
        Skipped: as `peer_backbone`, or the stock heads have other parameters.
    """
    backbone = peer_backbone(peer, ours.backbone)
    trained = [parameter.requires_grad for parameter in ours.backbone.parameters()]
    if any(trained) and not all(trained):
        raise Skipped('the config freezes a part of the backbone, which is not carried over to other implementations')
    model = build(cfg, stock.without_ours(cfg.model))
    model.backbone = Contiguous(backbone)
    heads = {name: value for name, value in ours.state_dict().items() if not name.startswith('backbone.')}
    fits = model.load_state_dict(heads, strict=False)
    lost = [*fits.unexpected_keys, *(name for name in fits.missing_keys if not name.startswith('backbone.'))]
    if lost:
        raise Skipped(f'the stock heads have other parameters than ours, such as {lost[0]}')
    set_threshold(model, threshold)
    return model


def _line(error: Exception) -> str:
    return ' '.join(f'{type(error).__name__}: {error}'.split())[:200]


