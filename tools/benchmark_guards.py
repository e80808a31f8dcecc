#!/usr/bin/env python
"""What the guards cost of a training step; writes docs/guards.json.

python tools/benchmark_guards.py [--steps 12] [--size 256] [--batch 2] [--check]
python tools/update_docs.py     # then renews docs/guards.md

Plain and guarded steps alternate, each pair one sample (on a GPU, blocks of 20 steps without a wait between them). As
the noise of a shared machine is larger than the cost, the guards' own work is timed by itself, too: the same wrapper
with an optimiser that does nothing, against the plain one; and the hooks that are called in each iteration.
"""

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from backbones.cli import ToolParser, run_tool

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / 'docs/guards.json'
LIMIT = 1.0  # percent of a step
CONVNEXT = dict(type='backbones.ConvNeXt', arch='tiny')


def main() -> int:
    parser = ToolParser(description=__doc__)
    parser.add_argument('--steps', type=int, default=12, help='pairs of steps')
    parser.add_argument('--size', type=int, default=256, help='height and width of the images')
    parser.add_argument('--batch', type=int, default=2, help='images per step')
    parser.add_argument('--check', action='store_true', help=f'fail if the guards cost more than {LIMIT} %%')
    args = parser.parse_args()
    import torch

    from backbones.files import write_json

    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    model, batch = build(args.size, args.batch, device)
    report = dict(
        device=torch.cuda.get_device_name() if device == 'cuda' else f'CPU, {torch.get_num_threads()} threads',
        torch=torch.__version__, model='UperNet, ConvNeXt-T', size=args.size, batch=args.batch, pairs=args.steps,
        parameters=sum(parameter.numel() for parameter in model.parameters()), **measure(model, batch, args.steps))
    write_json(RESULT, report, indent=1)
    for name, value in report.items():
        print(f'{name}: {value}')
    failed = args.check and report['own_percent'] > LIMIT
    return 1 if failed else 0


def build(size: int, images: int, device: str) -> tuple[Any, dict]:
    """UperNet with ConvNeXt-T, and a batch of noise."""
    from mmengine.config import Config
    from mmengine.registry import MODELS, init_default_scope

    from backbones.measure import synthetic_batch

    init_default_scope('mmseg')
    cfg = Config.fromfile(ROOT / 'configs/_base_/models/upernet.py').model
    cfg.backbone, channels = CONVNEXT, [96, 192, 384, 768]
    cfg.decode_head.in_channels, cfg.auxiliary_head.in_channels = channels, channels[2]
    cfg.data_preprocessor.size = (size, size)
    for head in (cfg.decode_head, cfg.auxiliary_head):
        head.norm_cfg.type = 'BN'
    model = MODELS.build(cfg).to(device).train()
    return model, synthetic_batch(model, (size, size), images)


def measure(model: Any, batch: dict, pairs: int) -> dict[str, float]:
    """Milliseconds and percent."""
    import torch
    from mmengine.optim import OptimWrapper

    from backbones.training.guards import GuardedOptimWrapper

    cuda = next(model.parameters()).is_cuda

    def optimiser() -> torch.optim.Optimizer:  # the kernels of both are the same: those are no cost of the guard
        return torch.optim.AdamW(model.parameters(), lr=1e-6, fused=cuda or None)

    plain, guarded = OptimWrapper(optimiser()), GuardedOptimWrapper(optimiser())
    block = 20 if cuda else 1

    def steps(wrapper: OptimWrapper) -> float:
        began = time.perf_counter()
        for _ in range(block):
            model.train_step(dict(batch), wrapper)
        if cuda:
            torch.cuda.synchronize()
        return (time.perf_counter() - began) / block * 1000

    for wrapper in (plain, guarded):
        steps(wrapper)
    times = [(steps(plain), steps(guarded)) for _ in range(pairs)]
    step = statistics.median(one for one, _ in times)
    paired = statistics.median(two - one for one, two in times)
    own, hooks = own_time(model, batch, plain, guarded, cuda), hook_time(batch, guarded)
    return dict(
        step_ms=round(step, 3), paired_ms=round(paired, 3), paired_percent=round(100 * paired / step, 2),
        own_ms=round(own, 3), hooks_ms=round(hooks, 3), own_percent=round(100 * (own + hooks) / step, 3))


def own_time(model: Any, batch: dict, plain: Any, guarded: Any, cuda: bool) -> float:
    """Milliseconds of what the guarded wrapper does more around one step, the step itself left out."""
    import torch

    model.train_step(dict(batch), SimpleNamespace(
        optim_context=plain.optim_context, update_params=lambda loss: loss.backward()))  # leaves gradients
    loss = torch.ones((), device=next(model.parameters()).device)

    def around(wrapper: Any) -> Callable[[], None]:
        def run() -> None:
            with wrapper.optim_context(model):
                pass
            if wrapper is guarded:
                wrapper._losses.append(loss)
            wrapper.step()

        return run

    for wrapper in (plain, guarded):
        wrapper.optimizer.step = lambda *_, **__: None
    return _median(around(guarded), cuda) - _median(around(plain), cuda)


def hook_time(batch: dict, guarded: Any) -> float:
    """Milliseconds of the hooks in one iteration of one process."""
    from backbones.training.non_finite import NonFiniteHook
    from backbones.training.signals import PreemptionHook
    from backbones.training.watchdog import WatchdogHook

    runner = SimpleNamespace(optim_wrapper=guarded, iter=0)
    hooks = [NonFiniteHook(), PreemptionHook(), WatchdogHook()]

    def run() -> None:
        for hook in hooks:
            hook.before_train_iter(runner, 0, data_batch=batch)
        for hook in hooks:
            hook.after_train_iter(runner, 0, data_batch=batch, outputs={})
        hooks[0]._since_step.clear()

    return _median(run, cuda=False)


def _median(run: Callable[[], None], cuda: bool, repeats: int = 30) -> float:
    import torch

    times = []
    for _ in range(repeats):
        if cuda:
            torch.cuda.synchronize()
        began = time.perf_counter()
        run()
        if cuda:
            torch.cuda.synchronize()
        times.append((time.perf_counter() - began) * 1000)
    return statistics.median(times)


if __name__ == '__main__':
    run_tool(main)
