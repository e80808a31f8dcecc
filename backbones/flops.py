"""Multiply-adds and parameters of a model, split into backbone, neck and heads, counted as the papers count them.

Counted are convolutions, linear layers and matrix products, attention included; not counted are biases, norms,
activations, softmax, pooling and resizing. One multiply-add is one. Batch 1, the model in eval mode. Nothing needs to
hold memory: build the model under `with on_meta()`, with the default scope of its toolbox. Every number that the papers
print for ConvNeXt, ConvNeXt V2, Swin and ViTDet follows from it (tests/recipes/test_paper_tables.py).

RoI heads do not run on the meta device as a whole (RoIAlign, NMS), and how many RoIs they get depends on the picture.
They are counted as mmdetection 2.x did for the published numbers: every box head on 1000 RoIs, every mask head on 100,
https://github.com/open-mmlab/mmdetection/blob/v2.28.2/mmdet/models/roi_heads/cascade_roi_head.py#L150
A segmenter's auxiliary head serves training only and is left out, as `EncoderDecoder.forward_dummy` left it out.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from backbones import attention

BOX_ROIS, MASK_ROIS = 1000, 100


@dataclass(frozen=True)
class Counts:
    """Numbers of backbone, neck and heads; `total` is their sum."""

    backbone: int
    neck: int
    heads: int

    @property
    def total(self) -> int:
        return self.backbone + self.neck + self.heads

    def as_dict(self) -> dict[str, int]:
        return {**asdict(self), 'total': self.total}


def count_macs(model: nn.Module, size: tuple[int, int], *, box_rois: int = BOX_ROIS, mask_rois: int = MASK_ROIS
               ) -> Counts:
    """Count the multiply-adds of one image.

    Args:
        model: an mmdet two-stage detector, an mmseg EncoderDecoder, or a backbone; free on the meta device.
        size: (H, W) of the image in pixels, padding included: the model must take it as it is.
        box_rois: RoIs that every box head gets.
        mask_rois: RoIs that every mask head gets.

    Raises:
        ValueError: the size is no pair of positive integers, or the model cannot take such an image.
    """
    if len(size) != 2 or any(not isinstance(side, int) or side < 1 for side in size):
        raise ValueError(f'size={size!r} must be (height, width) of an image in pixels, such as (800, 1280)')
    parts = split(model)
    with torch.no_grad(), _evaluating(model), _attention_as_published(parts.backbone) as padding:
        backbone, maps = _counted(parts.backbone, size, lambda: parts.backbone(blank_image(parts.backbone, size)))
        maps = (maps,) if isinstance(maps, Tensor) else tuple(maps)
        neck = 0
        if parts.neck is not None:
            neck, maps = _counted(parts.neck, size, lambda: tuple(parts.neck(maps)))
        heads = 0
        for head, arguments in head_inputs(parts, maps, box_rois, mask_rois):
            heads += _counted(head, size, functools.partial(head, arguments))[0]
    return Counts(backbone + sum(padding), neck, heads)


def count_params(model: nn.Module) -> Counts:
    """Count the parameters, the auxiliary head included, as the papers print them."""
    parts = split(model)
    backbone = _numel(parts.backbone)
    neck = 0 if parts.neck is None else _numel(parts.neck)
    return Counts(backbone, neck, _numel(model) - backbone - neck)


def classifier_macs(backbone: nn.Module, size: tuple[int, int], num_classes: int = 1000) -> Counts:
    """`count_macs` of a backbone with global pooling of its last map and one linear layer behind it."""
    counts = count_macs(backbone, size)
    return Counts(counts.backbone, 0, backbone.out_channels[-1] * num_classes)


class _LinspaceOnCpu(TorchFunctionMode):
    """mmdet's and mmseg's Swin read their drop-path rates off `torch.linspace(...)`, which the meta device cannot."""

    def __torch_function__(self, func: Callable, types: tuple, args: tuple = (), kwargs: dict | None = None) -> object:
        kwargs = dict(kwargs or {})
        if func is torch.linspace:
            kwargs.setdefault('device', 'cpu')
        return func(*args, **kwargs)


@contextlib.contextmanager
def on_meta() -> Iterator[None]:
    """Build models in shapes only: `with on_meta(): model = MODELS.build(cfg.model)`."""
    with torch.device('meta'), _LinspaceOnCpu():
        yield


# --- the parts of a model -------------------------------------------------------------------------


@dataclass(frozen=True)
class Parts:
    """Where the pieces of a model are; an empty tuple stands for what it has not."""

    backbone: nn.Module
    neck: nn.Module | None = None
    rpn_head: nn.Module | None = None
    box_heads: tuple[tuple[nn.Module, tuple[int, int]], ...] = ()  # with the size of their RoI maps
    mask_heads: tuple[tuple[nn.Module, tuple[int, int]], ...] = ()
    decode_heads: tuple[nn.Module, ...] = ()
    auxiliary_heads: tuple[nn.Module, ...] = ()


def split(model: nn.Module) -> Parts:
    """Find the parts of a two-stage detector, a segmenter, or a bare backbone.

    Raises:
        ValueError: a model with a backbone, but of another kind.
    """
    if not hasattr(model, 'backbone'):
        return Parts(model)
    neck = getattr(model, 'neck', None)
    if hasattr(model, 'decode_head'):
        auxiliary = getattr(model, 'auxiliary_head', None)
        return Parts(model.backbone, neck, decode_heads=_several(model.decode_head),
                     auxiliary_heads=_several(auxiliary))
    if not hasattr(model, 'roi_head'):
        raise ValueError(
            f'{type(model).__name__} is neither a detector with RoI heads (Mask R-CNN, Cascade Mask R-CNN) nor a '
            "segmenter with a decode head; its backbone alone can be counted: pass model.backbone")
    roi_head = model.roi_head
    box = _with_map_size(roi_head, 'bbox')
    mask = _with_map_size(roi_head, 'mask') if getattr(roi_head, 'with_mask', False) else ()
    return Parts(model.backbone, neck, getattr(model, 'rpn_head', None), box, mask)


def _several(module: nn.Module | None) -> tuple[nn.Module, ...]:
    if module is None:
        return ()
    return tuple(module) if isinstance(module, nn.ModuleList) else (module,)


def _with_map_size(roi_head: nn.Module, kind: str) -> tuple[tuple[nn.Module, tuple[int, int]], ...]:
    """The heads of one kind, each with (H, W) of the maps that its RoI extractor cuts."""
    heads = _several(getattr(roi_head, f'{kind}_head'))
    extractors = _several(getattr(roi_head, f'{kind}_roi_extractor', None)) or _several(roi_head.bbox_roi_extractor)
    extractors = extractors if len(extractors) == len(heads) else extractors[:1] * len(heads)
    sizes = [extractor.roi_layers[0].output_size for extractor in extractors]
    return tuple((head, (size, size) if isinstance(size, int) else tuple(size))
                 for head, size in zip(heads, sizes, strict=True))


def head_inputs(parts: Parts, maps: Sequence[Tensor], box_rois: int, mask_rois: int
                ) -> Iterator[tuple[nn.Module, Tensor | tuple[Tensor, ...]]]:
    """Give each head that runs in a test together with what its forward takes.

    Args:
        parts: of `split`.
        maps: (N, C_i, H / s_i, W / s_i) of the neck.
        box_rois: RoIs for every box head.
        mask_rois: RoIs for every mask head.
    """
    if parts.rpn_head is not None:
        yield parts.rpn_head, tuple(maps)
    for heads, rois in ((parts.box_heads, box_rois), (parts.mask_heads, mask_rois)):
        for head, (h, w) in heads:
            yield head, maps[0].new_zeros(rois, maps[0].shape[1], h, w)
    for head in parts.decode_heads:
        yield head, tuple(maps)


def blank_image(backbone: nn.Module, size: tuple[int, int], batch: int = 1) -> Tensor:
    """Zeros (N, C, H, W) on the device of the backbone."""
    parameter = next(backbone.parameters())
    channels = getattr(backbone, 'in_channels', 3)
    return torch.zeros(batch, channels if isinstance(channels, int) else 3, *size, device=parameter.device)


# --- counting -------------------------------------------------------------------------------------


def _counted(module: nn.Module, size: tuple[int, int], run: Callable[[], object]) -> tuple[int, object]:
    """Multiply-adds of `run`, and what it returns."""
    counter = FlopCounterMode(display=False)
    try:
        with sdpa_kernel(SDPBackend.MATH), counter:  # the counter knows no fused attention of the CPU
            result = run()
    except (RuntimeError, AssertionError, IndexError) as error:
        raise ValueError(
            f'{type(module).__name__} cannot be counted for an image of {size[0]} x {size[1]} pixels: {error}'
        ) from error
    return counter.get_total_flops() // 2, result


def _numel(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@contextlib.contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Put the model into eval mode and every module of it back as it was: frozen stages differ from the rest."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


@contextlib.contextmanager
def _attention_as_published(backbone: nn.Module) -> Iterator[list[int]]:
    """Count attention as ViTDet's code computes it where ours reaches the same numbers by another way.

    Decomposed relative positions run as a bias: the equivalent one-hot form widens queries, keys and values, spending
    multiply-adds to save memory. The list collects the projections of the tokens that pad a map to whole windows, which
    ours replaces by the bias:
    https://github.com/facebookresearch/detectron2/blob/02b5c4e/detectron2/modeling/backbone/vit.py#L209-L218
    """
    padding: list[int] = []

    def note(module: attention.Attention, args: tuple, kwargs: dict) -> None:
        x, (h, w), window = args[0], kwargs.get('grid') or args[1], module.window_size
        if window:
            tokens = -(-h // window) * -(-w // window) * window**2 - h * w
            padding.append(x.shape[0] * tokens * (module.qkv.weight.numel() + module.proj.weight.numel()))

    blocks = [module for module in backbone.modules() if isinstance(module, attention.Attention)]
    hooks = [block.register_forward_pre_hook(note, with_kwargs=True) for block in blocks]
    original = attention.decomposed_attention
    attention.decomposed_attention = functools.partial(original, one_hot=False)
    try:
        yield padding
    finally:
        attention.decomposed_attention = original
        for hook in hooks:
            hook.remove()
