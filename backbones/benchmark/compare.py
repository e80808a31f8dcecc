"""Run the comparison: build both sides with the same weights, look at their results, then time them turn by turn."""

from __future__ import annotations

import contextlib
import copy
import gc
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from torch import Tensor, nn
from tqdm import tqdm

from backbones.benchmark import differences, models, stock, work
from backbones.benchmark.machine import machine
from backbones.benchmark.measuring import alternate, waiting
from backbones.benchmark.peaks import Peak, matrix_peak, memory_peak
from backbones.benchmark.peers import Peer, peer_backbone, peer_model
from backbones.benchmark.peers import chosen as chosen_peers
from backbones.benchmark.skipping import Skipped
from backbones.benchmark.variants import Variant
from backbones.benchmark.variants import chosen as chosen_variants
from backbones.image_sizes import image_sizes
from backbones.weights.recognition import read_tensors

WHAT = ('backbone', 'inference', 'train')
BROKEN = (RuntimeError, TypeError, AttributeError, KeyError, IndexError, AssertionError, NotImplementedError)


@dataclass
class Settings:
    """How the comparison is run.

    Attributes:
        what: of `WHAT`.
        against: names of `peers.PEERS`.
        variants: names of `variants.VARIANTS`.
        size: (H, W) of the images; None takes what the config's pipelines make at most.
        batch: images; None is 1, and 2 in the training step of a segmenter, whose pooled maps need two for BatchNorm.
        repeats: pairs of runs of a comparison, at most.
        seconds: for the timed runs of a comparison, after its first three pairs.
        threads: of torch; None leaves them.
        checkpoint: weights of the whole model; None takes random ones.
    """

    what: Sequence[str] = WHAT
    against: Sequence[str] = ('mmpretrain', 'timm', 'hf', 'stock')
    variants: Sequence[str] = ('fp32', 'bf16')
    size: tuple[int, int] | None = None
    batch: int | None = None
    repeats: int = 7
    seconds: float = 60.0
    threads: int | None = None
    checkpoint: str | None = None
    peak_seconds: float = field(default=1.0, repr=False)

    def check(self) -> tuple[list[Variant], list[Peer]]:
        """Find the variants and peers.

        Raises:
            ValueError: one of them, or another setting, is outside of what is stated above.
        """
        for name in self.what:
            if name not in WHAT:
                raise ValueError(f'--what {name}: choose among {", ".join(WHAT)}')
        for option, value in (('batch', self.batch), ('repeats', self.repeats), ('threads', self.threads)):
            if value is not None and value < 1:
                raise ValueError(f'--{option} {value} must be at least 1')
        if not self.seconds > 0:
            raise ValueError(f'--seconds {self.seconds} must be more than 0')
        if self.checkpoint is not None and not Path(self.checkpoint).is_file():
            raise ValueError(f'--checkpoint {self.checkpoint} is no file; give a checkpoint of the whole model, or '
                             'leave the option out for random weights')
        return chosen_variants(list(self.variants)), chosen_peers(list(self.against))


@dataclass
class Side:
    """One side of a comparison: a run that can be repeated, and what its first run gave."""

    run: Callable[[], object]
    result: Any
    memory: Peak


def benchmark(config: str | Path, options: dict[str, Any] | None, settings: Settings) -> dict[str, Any]:
    """Compare a config with its peers.

    Returns:
        `config`, `machine`, `settings`, `rows` (one per what, variant and peer), `skipped` and `remarks`, as sentences.

    Raises:
        ValueError: a setting or the config cannot be used, or ours does not run.
    """
    variants, peers = settings.check()
    before = torch.get_num_threads()
    torch.set_num_threads(settings.threads or before)
    try:
        with models.quiet():
            return _Comparison(models.read(config, options), settings).run(variants, peers)
    finally:
        torch.set_num_threads(before)


class _Comparison:
    """Everything that the rows of one report share."""

    def __init__(self, cfg: Config, settings: Settings) -> None:
        self.cfg, self.settings = cfg, settings
        self.device = torch.device('cuda' if torch.cuda.is_available() else 'cpu')
        torch.manual_seed(0)
        self.machine = machine(self.device)  # its load without ours
        self.reference = models.build(cfg)  # on the CPU; every side is made of it
        if settings.checkpoint is None:
            models.stir(self.reference.backbone)
        else:
            self._load(settings.checkpoint)
        self.reference.eval()
        self.threshold: float | None = None
        self.peaks: dict[torch.dtype, float] = {}
        self.rows: list[dict[str, Any]] = []
        self.skipped: dict[tuple[str, str], list[str]] = {}  # (peer, why): what it was skipped in

    def _load(self, checkpoint: str) -> None:
        state, _ = read_tensors(Path(checkpoint))  # executes nothing
        try:
            self.reference.load_state_dict(state)
        except RuntimeError as error:
            raise ValueError(f'--checkpoint {checkpoint} does not fit the model of {self.cfg.filename}: '
                             f'{" ".join(str(error).split())[:300]}') from error

    def run(self, variants: list[Variant], peers: list[Peer]) -> dict[str, Any]:
        """Do all comparisons."""
        steps = len(self.settings.what) * len(variants) * len(peers) * (2 * self.settings.repeats + 2)
        with tqdm(total=steps, delay=2, disable=None, leave=False, file=sys.stderr) as bar:
            for what in dict.fromkeys(self.settings.what):
                self._compare(what, variants, peers, bar)
                gc.collect()
        names = {peer.name for peer in peers}
        remarks = self._remarks(names)
        return dict(
            config=str(self.cfg.filename), machine=self.machine,
            settings={key: value for key, value in vars(self.settings).items() if key != 'peak_seconds'},
            matrix_peak={str(dtype).removeprefix('torch.'): value for dtype, value in self.peaks.items()},
            score_threshold=self.threshold, rows=self.rows, skipped=self._skips(),
            remarks=remarks)

    def _skips(self) -> list[str]:
        whole = list(dict.fromkeys(self.settings.what))
        return [f'{peer}: {why}' if what == whole else f'{peer} ({", ".join(what)}): {why}'
                for (peer, why), what in self.skipped.items()]

    def _remarks(self, names: set[str]) -> list[str]:
        remarks = []
        said = stock.remark(self.reference.backbone)
        if 'stock' in names and said:
            remarks.append(f'stock: {said}')
        kept = stock.kept(self.cfg.model)
        if kept and set(self.settings.what) - {'backbone'}:
            remarks.append(f'the whole models of the peers use {", ".join(kept)}, too: nothing stock computes the same')
        if getattr(self.reference.backbone, 'with_cp', False) and 'train' in self.settings.what:
            remarks.append('with_cp=True in the config: ours computes activations again in the backward pass, the '
                           'peers keep them; --cfg-options model.backbone.with_cp=False compares alike')
        return remarks

    # --- one kind of work ---

    def _compare(self, what: str, variants: list[Variant], peers: list[Peer], bar: tqdm) -> None:
        size, batch = self._images(what)
        data = self._data(what, size, batch)
        if what != 'backbone':
            size = models.seen_size(self.reference, data, training=what == 'train')
        theirs: dict[str, Side] = {}
        for peer in peers:
            bar.set_description(f'{what}: building {peer.name}')
            try:
                theirs[peer.name] = self._peer_side(what, peer, data)
            except Skipped as reason:
                self.skipped.setdefault((peer.name, str(reason)), []).append(what)
        for variant in variants:
            bar.set_description(f'{what}: building ours, {variant.name}')
            ours, flops = self._own_side(what, variant, data, size, batch)
            for name, side in theirs.items():
                bar.set_description(f'{what}: ours ({variant.name}) and {name}')
                self.rows.append(dict(what=what, ours=variant.name, against=name, size=list(size), batch=batch,
                                      **self._row(what, variant, ours, side, flops, bar)))

    def _images(self, what: str) -> tuple[tuple[int, int], int]:
        segmenter = hasattr(self.reference, 'decode_head')
        batch = self.settings.batch or (2 if segmenter and what == 'train' else 1)
        if self.settings.size is not None:
            return self.settings.size, batch
        sizes = image_sizes(self.cfg)
        if what == 'train':
            return sizes.train, batch
        if what == 'backbone' and models.is_slid(self.reference):
            return tuple(self.reference.test_cfg.crop_size), batch
        return sizes.test, batch

    def _data(self, what: str, size: tuple[int, int], batch: int) -> Any:
        if what == 'backbone':
            channels = getattr(self.reference.backbone, 'in_channels', 3)
            generator = torch.Generator().manual_seed(0)
            channels = channels if isinstance(channels, int) else 3
            return torch.randn(batch, channels, *size, generator=generator).to(self.device)
        if what == 'train':
            return models.train_batch(self.reference, size, batch)
        data = models.test_batch(self.reference, size, batch)
        if self.threshold is None and self.settings.checkpoint is None:
            with self._ours_runs():
                self.threshold = models.usual_threshold(self.reference, data)
            models.set_threshold(self.reference, self.threshold)
        return data

    # --- the sides ---

    def _own_side(self, what: str, variant: Variant, data: Any, size: tuple[int, int], batch: int) -> tuple[Side, int]:
        source = self.reference.backbone if what == 'backbone' else self.reference
        with self._ours_runs():
            model = variant.prepare(copy.deepcopy(source).to(self.device), what)
            if what == 'backbone':
                return self._side(what, model, data, None), work.backbone_flops(self.cfg, size, batch)
            wrapper = None
            if what == 'train':
                wrapper = models.own_optimiser(self.cfg, model, dict(variant.optim_wrapper))
            with work.counted_rois(model) as rois:
                first = _first_result(what, model, data, wrapper)
            flops = work.model_flops(self.cfg, size, batch, rois, training=what == 'train')
            return self._side(what, model, data, wrapper, first), flops

    def _peer_side(self, what: str, peer: Peer, data: Any) -> Side:
        try:
            if what == 'backbone':
                model = peer_backbone(peer, self.reference.backbone).to(self.device)
            else:
                model = peer_model(peer, self.reference, self.cfg, self.threshold).to(self.device).eval()
            wrapper = models.stock_optimiser(model) if what == 'train' else None
            return self._side(what, model, data, wrapper)
        except BROKEN as error:
            line = ' '.join(f'{type(error).__name__}: {error}'.split())[:200]
            raise Skipped(f'it does not run on this input ({line})') from error

    def _side(self, what: str, model: nn.Module, data: Any, wrapper: Any, first: Any = None) -> Side:
        first = _first_result(what, model, data, wrapper) if first is None else first
        if what == 'train':
            model.train()
        run = waiting(_run(what, model, data, wrapper), self.device)
        if what == 'train':
            run()  # makes the states of the optimiser
        return Side(run, first, memory_peak(run, self.device))

    @contextlib.contextmanager
    def _ours_runs(self) -> Iterator[None]:
        try:
            yield
        except BROKEN as error:
            line = ' '.join(f'{type(error).__name__}: {error}'.split())[:300]
            raise ValueError(f'the model of {self.cfg.filename} does not run on such images ({line}); give another '
                             '--size, --batch or --variants') from error

    # --- a row ---

    def _row(self, what: str, variant: Variant, ours: Side, peer: Side, flops: int, bar: tqdm) -> dict[str, Any]:
        done, before = bar.n, self._matrix_peak(variant.dtype)
        pairs = alternate(ours.run, peer.run, repeats=self.settings.repeats, seconds=self.settings.seconds,
                          after_run=bar.update)
        bar.update(done + 2 * self.settings.repeats + 2 - bar.n)
        peak = max(before, self._matrix_peak(variant.dtype))  # on both sides of the timed runs: machines drift
        times = pairs.as_dict()
        apart = COMPARED[what](ours.result, peer.result)
        rate = flops / (times['ours_ms'] / 1000)
        return dict(
            times, max_abs=apart.absolute, max_rel=apart.relative, detail=apart.detail, flops=flops,
            flops_per_second=rate, dtype=str(variant.dtype).removeprefix('torch.'),
            matrix_peak=peak, share_of_peak=rate / peak, ours_peak_bytes=ours.memory.total,
            ours_added_bytes=ours.memory.added, peer_peak_bytes=peer.memory.total,
            peer_added_bytes=peer.memory.added)

    def _matrix_peak(self, dtype: torch.dtype) -> float:
        found = matrix_peak(dtype, self.device, seconds=self.settings.peak_seconds / 2)
        self.peaks[dtype] = max(found, self.peaks.get(dtype, 0.0))
        return found


COMPARED: dict[str, Callable[[Any, Any], differences.Difference]] = dict(
    backbone=differences.of_tensors, inference=differences.of_samples, train=differences.of_losses)


def _run(what: str, model: nn.Module, data: Any, wrapper: Any) -> Callable[[], object]:
    if what == 'backbone':
        return models.backbone_run(model, data)
    if what == 'inference':
        return models.inference_run(model, data)
    return models.train_run(model, data, wrapper)


def _first_result(what: str, model: nn.Module, data: Any, wrapper: Any) -> Any:
    """What is compared: maps, samples, or the losses of a pass that updates nothing."""
    if what == 'train':
        return models.first_losses(model, data, wrapper)
    result = _run(what, model, data, wrapper)()
    return [value.clone() if isinstance(value, Tensor) else value for value in result]
