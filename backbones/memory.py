"""Peak memory of one training step, simulated in shapes: forward and backward on the meta device, byte by byte.

What PyTorch would allocate is followed storage by storage, from the first map to the last gradient: what autograd
keeps, what checkpointing drops and computes again, the copies that mixed precision makes, gradients while they appear.
Weights and optimiser states are added. RoIs are as many as the config samples; targets are counted, not computed. Not
counted: the CUDA context, workspaces of cuDNN, fragmentation, DDP's buckets (see `backbones/budget.py`).

How close it comes to measured steps is in docs/budget.md. Shapes: N images, C channels, H W rows and columns, R RoIs.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from backbones import attention
from backbones.flops import Parts, blank_image, split

PRECISIONS = {'fp32': None, 'fp16': torch.float16, 'bf16': torch.bfloat16}
OPTIMISER_COPIES = {'AdamW': 2, 'Adam': 2, 'NAdam': 2, 'Lion': 1, 'Adagrad': 1}
# Per anchor, besides the outputs of the RPN: the anchor, label, box and weights of each, flat and per level, in fp32.
ANCHOR_BYTES = 100
# Per anchor and annotated object, while an image's anchors are assigned: corners and sides of the intersection, areas.
# https://github.com/open-mmlab/mmdetection/blob/v3.3.0/mmdet/structures/bbox/bbox_overlaps.py#L168-L188
OVERLAP_BYTES = 40


@dataclass(frozen=True)
class Memory:
    """Bytes of one training step.

    Attributes:
        weights: parameters and buffers, and their copy where the run keeps an average of them.
        gradients: of all trainable parameters, as they are after the backward pass.
        optimiser: its states.
        activations: what is alive between forward and backward: maps, targets, half-precision copies of weights.
        peak: of the whole step.
    """

    weights: int
    gradients: int
    optimiser: int
    activations: int
    peak: int

    @property
    def transient(self) -> int:
        """What the peak has beyond weights, optimiser and activations: gradients of maps, finished gradients."""
        return self.peak - self.weights - self.optimiser - self.activations

    def as_dict(self) -> dict[str, int]:
        return {**asdict(self), 'transient': self.transient}


def training_memory(
    model: nn.Module,
    size: tuple[int, int],
    batch: int = 1,
    *,
    precision: str = 'fp32',
    optimiser: dict | None = None,
    average: bool = False,
    accumulate: bool = False,
    several_gpus: bool = False,
    objects: int = 100,
    device: str = 'cuda',
) -> Memory:
    """Simulate one training step.

    Args:
        model: an mmdet two-stage detector, an mmseg EncoderDecoder or a backbone, on the meta device (`on_meta`).
        size: (H, W) of the images in pixels, padding included.
        batch: N.
        precision: 'fp32', or 'fp16' / 'bf16' as autocast does it.
        optimiser: settings such as `dict(type='SGD', momentum=0.9)`; AdamW when None.
        average: a moving average of the weights is kept.
        accumulate: gradients of earlier passes of the same step are there already.
        several_gpus: SyncBN has the images of other GPUs as well, so that one here may be enough.
        objects: annotated objects in an image; COCO has 7 on average and 93 at most.
        device: 'cuda', or 'cpu' for the kernels and the autocast rules of a CPU.

    Raises:
        ValueError: unknown precision, a model that holds memory, a size or batch that is impossible.
    """
    _check(model, size, batch, precision)
    weights = _bytes(model.parameters()) + _bytes(model.buffers())
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    gradients, states = _bytes(trainable), _bytes(trainable) * optimiser_copies(optimiser or {'type': 'AdamW'})
    weights *= 1 + average
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    synced = several_gpus and all(isinstance(norm, nn.SyncBatchNorm) for norm in norms)
    rules = AsOnDevice(PRECISIONS[precision], device, synced)
    activations, peak = _simulate(model, size, batch, rules, accumulate, objects)
    # The optimiser takes one temporary for each gradient where it works on all tensors at once, as it does on a GPU.
    temporaries = gradients if device == 'cuda' else max(map(_size, trainable), default=0)
    step = gradients + (temporaries if states else 0)
    return Memory(weights, gradients, states, activations, weights + states + max(peak, step))


def optimiser_copies(settings: dict) -> int:
    """How many numbers an optimiser keeps per parameter; one that is not known here counts like Adam."""
    kind = str(settings.get('type', 'AdamW')).split('.')[-1]
    if kind == 'SGD':
        return int(settings.get('momentum', 0) > 0)
    return OPTIMISER_COPIES.get(kind, 2)


def _check(model: nn.Module, size: tuple[int, int], batch: int, precision: str) -> None:
    if precision not in PRECISIONS:
        raise ValueError(f'precision={precision!r} is unknown; choose one of {", ".join(PRECISIONS)}')
    if min(*size, batch) < 1:
        raise ValueError(f'size={size} and batch={batch} must be positive')
    if any(not parameter.is_meta for parameter in model.parameters()):
        raise ValueError(
            'the model holds memory of its own, but only shapes are simulated; build it under '
            '`with backbones.flops.on_meta():`')


def _size(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _bytes(tensors: Sequence[Tensor] | Iterator[Tensor]) -> int:
    return sum(map(_size, tensors))


# --- counting live bytes --------------------------------------------------------------------------


class LiveBytes(TorchDispatchMode):
    """Follow the storages that PyTorch operations make while this is active, on any device.

    Args:
        known: tensors that were there before and do not count.

    Attributes:
        current: bytes alive now.
        peak: the most that were alive at once.
    """

    def __init__(self, known: Sequence[Tensor] = ()) -> None:
        super().__init__()
        self.current = self.peak = 0
        self._alive: dict[int, weakref.ref] = {}
        for tensor in known:
            self._note(tensor, counts=False)

    def __torch_dispatch__(self, func: Callable, types: tuple, args: tuple = (), kwargs: dict | None = None) -> object:
        result = func(*args, **(kwargs or {}))
        tree_map_only(Tensor, self._note, result)
        self.peak = max(self.peak, self.current)
        return result

    def _note(self, tensor: Tensor, counts: bool = True) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes() if counts else 0
        if key in self._alive:
            return

        def gone(_: weakref.ref) -> None:
            del self._alive[key]
            self.current -= size

        self._alive[key] = weakref.ref(storage, gone)
        self.current += size


# --- what a GPU does and the meta device does not -------------------------------------------------


class FusedAttention(torch.autograd.Function):
    """Shapes of a fused attention: it keeps q, k, v, the output and one number per query, never the logits."""

    @staticmethod
    def forward(ctx: object, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        out = q.new_empty(*q.shape[:-1], v.shape[-1])
        ctx.save_for_backward(q, k, v, mask, out, q.new_empty(q.shape[:-1], dtype=torch.float32))
        return out

    @staticmethod
    def backward(ctx: object, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, mask, *_ = ctx.saved_tensors
        queries = torch.empty_like(q, dtype=torch.float32)  # the kernels sum the queries' gradient in fp32
        grads = [torch.empty_like(tensor) for tensor in (queries.to(q.dtype), k, v)]
        return (*grads, torch.empty_like(mask) if ctx.needs_input_grad[3] else None)


class CutRois(torch.autograd.Function):
    """Shapes of RoIAlign over a pyramid: it keeps no map; the gradient of every level is a whole map."""

    @staticmethod
    def forward(ctx: object, rois: int, size: tuple[int, int], *maps: Tensor) -> Tensor:
        ctx.shapes = [(map_.shape, map_.dtype) for map_ in maps]
        return maps[0].new_empty(rois, maps[0].shape[1], *size)  # (R, C, h, w)

    @staticmethod
    def backward(ctx: object, grad: Tensor) -> tuple[Tensor | None, ...]:
        return (None, None, *(grad.new_empty(shape, dtype=dtype) for shape, dtype in ctx.shapes))


# https://docs.pytorch.org/docs/stable/amp.html#cuda-ops-that-can-autocast-to-float16 and the list after it
TO_HALF = {torch.conv2d, torch.conv_transpose2d, F.linear, torch.matmul, torch.bmm, torch.einsum, torch.baddbmm,
           Tensor.matmul, Tensor.__matmul__, Tensor.bmm, F.scaled_dot_product_attention, F.multi_head_attention_forward}
TO_FLOAT = {
    'cpu': {F.nll_loss},
    'cuda': {F.layer_norm, torch.layer_norm, F.group_norm, torch.group_norm, F.softmax, torch.softmax, Tensor.softmax,
             F.log_softmax, torch.log_softmax, F.nll_loss, torch.norm, Tensor.norm, torch.exp, torch.log, torch.pow,
             Tensor.pow, torch.cumsum}}


class AsOnDevice(TorchFunctionMode):
    """Fused attention and autocast, which act on real devices only, for tensors in shapes."""

    def __init__(self, dtype: torch.dtype | None, device: str, synced: bool = False) -> None:
        super().__init__()
        self.dtype, self.device, self.synced = dtype, device, synced
        self.copies: dict[int, Tensor] | None = {}  # autocast casts a weight once in a forward pass

    def __torch_function__(self, func: Callable, types: tuple, args: tuple = (), kwargs: dict | None = None) -> object:
        kwargs = dict(kwargs or {})
        if self.dtype is not None and func in TO_HALF:
            args, kwargs = tree_map_only(Tensor, self._half, (args, kwargs))
        elif self.dtype is not None and func in TO_FLOAT[self.device]:
            args, kwargs = tree_map_only(Tensor, _full, (args, kwargs))
        if func is F.batch_norm and self.synced and args[0].numel() == args[0].shape[1]:
            return args[0] * 1  # one value per channel, which `batch_norm` refuses; too small to matter
        if func is F.scaled_dot_product_attention:
            mask = kwargs.get('attn_mask', args[3] if len(args) > 3 else None)
            # a CPU has no fused kernel with a gradient of the mask
            if self.device == 'cuda' or mask is None or not mask.requires_grad:
                return FusedAttention.apply(*args[:3], mask)
        return func(*args, **kwargs)

    def _half(self, tensor: Tensor) -> Tensor:
        if tensor.dtype != torch.float32:
            return tensor
        if self.copies is None or not (tensor.is_leaf and tensor.requires_grad):
            return tensor.to(self.dtype)
        if id(tensor) not in self.copies:
            self.copies[id(tensor)] = tensor.to(self.dtype)
        return self.copies[id(tensor)]


def _full(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor


@contextlib.contextmanager
def _device_rules(device: str) -> Iterator[None]:
    """Let attention choose the form it would take on `device`."""
    if device != 'cpu':
        yield
        return
    original = attention.decomposed_attention

    def on_cpu(q: Tensor, k: Tensor, v: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        few = rows.shape[0] * columns.shape[0] <= attention.MAX_ONE_HOT_KEYS_ON_CPU
        return original(q, k, v, rows, columns, one_hot=few)

    attention.decomposed_attention = on_cpu
    try:
        yield
    finally:
        attention.decomposed_attention = original


# --- the step -------------------------------------------------------------------------------------


def _simulate(
    model: nn.Module, size: tuple[int, int], batch: int, rules: AsOnDevice, accumulate: bool, objects: int
) -> tuple[int, int]:
    """Bytes alive after the forward pass without gradients, and the peak over both passes with them."""
    training = [(module, module.training) for module in model.modules()]
    live = LiveBytes([*model.parameters(), *model.buffers()])
    try:
        model.train()
        with _device_rules(rules.device), live, rules:
            for parameter in model.parameters():
                if accumulate and parameter.requires_grad:
                    parameter.grad = torch.empty_like(parameter)
            before = live.current
            loss = _loss(model, size, batch, objects)
            rules.copies = None
            alive = live.current - before
            _backward(loss)
    except (RuntimeError, AssertionError, NotImplementedError, ValueError) as error:
        raise ValueError(
            f'a training step of {type(model).__name__} on {batch} images of {size[0]} x {size[1]} cannot be '
            f'simulated: {error}') from error
    finally:
        model.zero_grad(set_to_none=True)
        for module, mode in training:
            module.training = mode
    return alive, live.peak


def _backward(loss: Tensor) -> None:
    """What `loss.backward()` does, which would put the rules aside; checkpointing runs its blocks under them again."""
    engine = torch.autograd.Variable._execution_engine
    engine.run_backward(
        (loss,), (torch.ones_like(loss),), False, False, (), allow_unreachable=True, accumulate_grad=True)


def _loss(model: nn.Module, size: tuple[int, int], batch: int, objects: int) -> Tensor:
    """The forward pass, with stand-ins for the losses that need real targets."""
    parts = split(model)
    images = blank_image(parts.backbone, size, batch)  # (N, 3, H, W)
    maps = parts.backbone(images)
    maps = (maps,) if isinstance(maps, Tensor) else tuple(maps)
    if parts.neck is not None:
        maps = tuple(parts.neck(maps))
    if parts.rpn_head is not None or parts.box_heads:
        return sum(_detection_losses(model, parts, maps, batch, objects))
    heads = [*parts.decode_heads, *parts.auxiliary_heads]
    if heads:
        return sum(_segmentation_loss(head, maps, size) for head in heads)
    return sum(_stand_in(map_) for map_ in maps)


def _stand_in(output: Tensor) -> Tensor:
    """A loss that needs no targets; its gradient is as large as the output."""
    return output.float().square().mean()


def _segmentation_loss(head: nn.Module, maps: tuple[Tensor, ...], size: tuple[int, int]) -> Tensor:
    logits = F.interpolate(head(maps), size, mode='bilinear', align_corners=head.align_corners)  # (N, classes, H, W)
    labels = torch.zeros(logits.shape[0], *size, dtype=torch.long, device=logits.device)
    # in two steps, because autocast acts on each
    loss = F.nll_loss(F.log_softmax(logits, 1), labels, reduction='none', ignore_index=255).mean()
    logits.detach().topk(1, dim=1)  # for the accuracy
    return loss


def _detection_losses(
    model: nn.Module, parts: Parts, maps: tuple[Tensor, ...], batch: int, objects: int
) -> Iterator[Tensor]:
    if parts.rpn_head is not None:
        scores, boxes = parts.rpn_head(maps)
        anchors = sum(score[0].numel() for score in scores)  # of one image
        targets = _BytesUntilBackward.apply(anchors * batch * ANCHOR_BYTES, _stand_in(scores[0]))
        scores[0].new_empty(anchors * objects * OVERLAP_BYTES, dtype=torch.uint8)  # gone again at once
        yield targets
        for level in (*scores[1:], *boxes):
            yield _stand_in(level.permute(0, 2, 3, 1).contiguous())
    for heads, rois in zip((parts.box_heads, parts.mask_heads), sampled_rois(model), strict=True):
        for (head, size), count in zip(heads, rois, strict=False):
            levels = maps[: _levels(model)]
            outputs = head(CutRois.apply(count * batch, size, *levels))
            for output in outputs if isinstance(outputs, tuple) else (outputs,):
                if output is not None:
                    yield _stand_in(output)


class _BytesUntilBackward(torch.autograd.Function):
    """Hold so many bytes, such as targets, from here to the backward pass."""

    @staticmethod
    def forward(ctx: object, count: int, x: Tensor) -> Tensor:
        ctx.save_for_backward(x.new_empty(count, dtype=torch.uint8))
        return x.clone()

    @staticmethod
    def backward(ctx: object, grad: Tensor) -> tuple[None, Tensor]:
        return None, grad


def _levels(model: nn.Module) -> int:
    """Maps that RoIs are cut from."""
    extractor = model.roi_head.bbox_roi_extractor
    extractor = extractor[0] if isinstance(extractor, nn.ModuleList) else extractor
    return len(extractor.featmap_strides)


def sampled_rois(model: nn.Module) -> tuple[list[int], list[int]]:
    """RoIs of one training image for each box head, and at most so many positives for each mask head."""
    stages = model.roi_head.train_cfg
    stages = list(stages) if isinstance(stages, list | tuple) else [stages]
    samplers = [stage['sampler'] for stage in stages if stage]
    first = next((sampler for sampler in samplers if 'num' in sampler), {'num': 512, 'pos_fraction': 0.25})
    samplers = [sampler if 'num' in sampler else first for sampler in samplers] or [first]
    box = [sampler['num'] for sampler in samplers]
    mask = [int(sampler['num'] * sampler.get('pos_fraction', 1.0)) for sampler in samplers]
    return box, mask
