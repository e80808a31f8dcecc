"""All that a run needs to go on as if it had never stopped, as plain data: tensors, strings, numbers, lists, dicts.

`capture` is to be called by all processes together, after a step, in or between hooks; `ResumeHook` (resuming.py) puts
it back before the first step. MMEngine's own `Runner.resume` is not used: it saves no random state, cannot start within
an epoch, and executes config text found in a checkpoint.
"""

from __future__ import annotations

import functools
import importlib.metadata
import platform
from collections.abc import Callable
from typing import Any

import torch
from mmengine.dist import get_rank, get_world_size
from mmengine.hooks import EMAHook
from mmengine.logging import HistoryBuffer
from mmengine.model import is_model_wrapper
from mmengine.runner import EpochBasedTrainLoop, Runner
from torch import Tensor, nn

from backbones.data.feed import Feed
from backbones.data.randomness import generator_states, kept_randomness, seed_generators, set_generator_states

from .optimizer_state import capture_optimizer, check_optimizer, restore_optimizer, wrappers
from .plain import copied, from_plain, plain_part, to_plain
from .saved_groups import regrouped
from .state_form import FORMAT, check_form

PACKAGES = ('mmbackbones', 'torch', 'numpy', 'mmengine', 'mmcv', 'mmdet', 'mmsegmentation')
NOT_KEPT = {  # what each start of a run says anew
    'cfg', 'seed', 'experiment_name', 'mmengine_version', 'loop_stage', 'dataset_meta', 'max_epochs', 'max_iters', 'eta'
}
HOOK_STATES = dict(EarlyStoppingHook=('wait_count', 'best_score'))  # of hooks without state_dict


def capture(runner: Runner) -> dict[str, Any]:
    """Return the state of a run; every process must call it, and each gets the same but for its own random state first.

    Nothing in it shares memory with the run, so it can be written while the training goes on.
    """
    loop, model = runner.train_loop, _bare(runner)
    averages = _averages(runner)
    swapped = getattr(loop, 'averages_swapped', False)
    if swapped:
        for hook in averages:
            hook._swap_ema_parameters()
    tree = dict(
        format=FORMAT,
        model=_tensors(model),
        ema=[_tensors(hook.ema_model) for hook in averages],
        optimizers={name: capture_optimizer(one, model) for name, one in wrappers(runner.optim_wrapper).items()},
        schedulers={
            name: [_scheduler_state(one) for one in found] for name, found in _schedulers(runner).items()
        },
    )
    if swapped:
        for hook in averages:
            hook._swap_ema_parameters()
    states = getattr(loop, 'validating', None) or generator_states()
    return dict(
        tree,
        message_hub=_hub_state(runner),
        hooks=_hook_states(runner),
        progress=_progress(loop),
        random=_gather(states),
        seed=_seed(runner),
        batch=_batch(loop),
        dataset_meta=_dataset_meta(loop),
        versions=dict(_versions()),
    )


def restore(runner: Runner, tree: dict[str, Any], *, log: Callable[[str], None] | None = None) -> None:
    """Put a captured state back into a built run whose `before_run` hooks have run and that has done no step.

    Args:
        runner: the Runner.
        tree: what `capture` gave, with its tensors on the CPU.
        log: takes lines that say what was restored and what is not as it was; default the Runner's logger.

    Raises:
        ValueError: it does not fit; nothing has been changed then.
    """
    log = log or runner.logger.info
    loop, model = runner.train_loop, _bare(runner)
    averages, schedulers = _averages(runner), _schedulers(runner)
    check_form(tree)
    tree, regroupings = regrouped(tree, wrappers(runner.optim_wrapper), model)
    _check(runner, tree, model, averages, schedulers)
    changes, seed = regroupings + _changes(tree, loop), _seed(runner)
    if seed != tree['seed']:
        changes.append(f'the seed stays {tree["seed"]}, as the run has it, not {seed}')
    _set_sampler_seed(loop, tree['seed'])
    states = _own_states(tree, log)
    changes += _resume_loop(loop, tree, states)
    _load(model, tree['model'])
    for hook, saved in zip(averages, tree['ema'], strict=True):
        _load(hook.ema_model, saved)
    for name, wrapper in wrappers(runner.optim_wrapper).items():
        restore_optimizer(wrapper, model, tree['optimizers'][name])
    for name, found in schedulers.items():
        for scheduler, saved in zip(found, tree['schedulers'][name], strict=True):
            scheduler.load_state_dict(from_plain(saved['state']))
    _restore_hub(runner, tree['message_hub'])
    _restore_hooks(runner, tree['hooks'])
    runner._has_loaded = True
    for note in changes:
        log(note)
    place = tree['progress']
    due = '; the validation that was due comes first' if place['validation_due'] else ''
    epoch = f', in epoch {place["place"]["epoch"] + 1}' if isinstance(loop, EpochBasedTrainLoop) else ''
    log(f'resumed after {place["iter"]} iterations{epoch}{due}')


def _bare(runner: Runner) -> nn.Module:
    return runner.model.module if is_model_wrapper(runner.model) else runner.model


def _averages(runner: Runner) -> list[EMAHook]:
    return [hook for hook in runner.hooks if isinstance(hook, EMAHook)]


def _schedulers(runner: Runner) -> dict[str, list]:
    found = runner.param_schedulers or []
    return found if isinstance(found, dict) else {'': found}


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    state = module.state_dict()
    others = [name for name, value in state.items() if not isinstance(value, Tensor)]
    if others:
        raise ValueError(
            f'{others[0]} of the model is {type(state[others[0]]).__name__}; only tensors can be saved: keep it as a '
            'buffer (register_buffer) or leave it out of get_extra_state'
        )
    return {name: copied(value) for name, value in state.items()}


def _scheduler_state(scheduler: Any) -> dict[str, Any]:
    # Functions among the attributes are made by the config.
    return dict(type=type(scheduler).__name__, state=plain_part(scheduler.state_dict())[0])


def _hub_state(runner: Runner) -> dict[str, Any]:
    state = runner.message_hub.state_dict()
    info = {name: value for name, value in state['runtime_info'].items() if name not in NOT_KEPT}
    info, others = plain_part(info)
    if others:
        runner.logger.warning(f'the message hub holds {", ".join(others)}, which are no plain data and are not saved')
    scalars = {
        name: dict(values=torch.as_tensor(values), counts=torch.as_tensor(counts), longest=buffer.max_length)
        for name, buffer in state['log_scalars'].items()
        for values, counts in [buffer.data]
    }
    kept = {name: bool(value) for name, value in state['resumed_keys'].items() if name in scalars or name in info}
    return dict(scalars=scalars, info=info, resumed_keys=kept)


def _restore_hub(runner: Runner, saved: dict[str, Any]) -> None:
    scalars = {}
    for name, buffer in saved['scalars'].items():
        scalars[name] = HistoryBuffer(max_length=buffer['longest'])
        scalars[name]._log_history = buffer['values'].numpy().copy()
        scalars[name]._count_history = buffer['counts'].numpy().copy()
    runner.message_hub.load_state_dict(
        dict(log_scalars=scalars, runtime_info=from_plain(saved['info']), resumed_keys=saved['resumed_keys']))


def _hook_states(runner: Runner) -> dict[str, Any]:
    states = {}
    for hook in runner.hooks:
        name = type(hook).__name__
        if callable(getattr(hook, 'state_dict', None)) and callable(getattr(hook, 'load_state_dict', None)):
            states[name] = to_plain(hook.state_dict())
        elif name in HOOK_STATES:
            states[name] = {key: to_plain(getattr(hook, key)) for key in HOOK_STATES[name]}
    return states


def _restore_hooks(runner: Runner, saved: dict[str, Any]) -> None:
    for hook in runner.hooks:
        name = type(hook).__name__
        if name in saved and name in HOOK_STATES:
            vars(hook).update(from_plain(saved[name]))
        elif name in saved and callable(getattr(hook, 'load_state_dict', None)):
            hook.load_state_dict(from_plain(saved[name]))


def _progress(loop: Any) -> dict[str, Any]:
    if hasattr(loop, 'progress'):
        return loop.progress()
    # A loop that is not ours saves where MMEngine's CheckpointHook does: at the end of an epoch, or after a step.
    by_epoch = isinstance(loop, EpochBasedTrainLoop)
    place = dict(epoch=loop.epoch + by_epoch, legs=[])
    return dict(epoch=loop.epoch + by_epoch, iter=loop.iter + (not by_epoch), place=place, validation_due=False)


def _resume_loop(loop: Any, tree: dict[str, Any], states: dict[str, Any]) -> list[str]:
    if hasattr(loop, 'resume_at'):
        return loop.resume_at(tree['progress'], states)
    loop._epoch, loop._iter = tree['progress']['epoch'], tree['progress']['iter']
    set_generator_states(states)
    return [
        f'{type(loop).__name__} does not resume exactly; train_cfg.type=backbones.EpochBasedTrainLoop or '
        'backbones.IterBasedTrainLoop does'
    ]


def _gather(states: dict[str, Any]) -> list[dict[str, Any]]:
    """The random states of all processes, over gloo: on a GPU backend they would travel through the GPUs."""
    if get_world_size() == 1:
        return [states]
    distributed = torch.distributed
    group = None
    if 'gloo' not in str(distributed.get_backend_config()):
        group = _gather.__dict__.setdefault('group', None) or distributed.new_group(backend='gloo')
        _gather.group = group
    found: list[Any] = [None] * get_world_size()
    distributed.all_gather_object(found, states, group=group)
    return found


def _own_states(tree: dict[str, Any], log: Callable[[str], None]) -> dict[str, Any]:
    """The random state that this process had, or a new one where there are more processes than there were."""
    if get_rank() < len(tree['random']):
        return tree['random'][get_rank()]
    log(f'process {get_rank()} is new; its random numbers start from the seed, the iteration and its rank')
    with kept_randomness():
        seed_generators(tree['seed'], tree['progress']['iter'], get_rank())
        states = generator_states(gpus=False)
    if torch.cuda.is_available():
        made = [torch.Generator(f'cuda:{device}') for device in range(torch.cuda.device_count())]
        for generator in made:
            generator.manual_seed(int(states['torch'][:8].sum()) + tree['progress']['iter'] * 1000 + get_rank())
        states['cuda'] = [generator.get_state() for generator in made]
    return states


def _sampler(loop: Any) -> Any:
    return Feed(loop.dataloader).sampler


def _seed(runner: Runner) -> int:
    """That of the data's order, which all processes share."""
    seed = getattr(_sampler(runner.train_loop), 'seed', None)
    return int((runner.seed or 0) if seed is None else seed)


def _set_sampler_seed(loop: Any, seed: int) -> None:
    sampler = _sampler(loop)
    if hasattr(sampler, 'seed'):
        sampler.seed = seed


def _batch(loop: Any) -> dict[str, int]:
    layout, accumulate = Feed(loop.dataloader).layout, getattr(loop, 'accumulate', 1)
    counts = getattr(loop.runner.optim_wrapper, '_accumulative_counts', 1)  # MMEngine's own, where ours does not
    total = (layout['batch_size'] or 1) * layout['processes'] * (counts if accumulate == 1 else 1)
    per_gpu = (layout['batch_size'] or 1) // accumulate
    return dict(total=total, processes=layout['processes'], per_gpu=per_gpu, accumulate=accumulate)


def _dataset_meta(loop: Any) -> dict[str, Any]:
    meta = getattr(loop.dataloader.dataset, 'metainfo', None) or {}
    return plain_part({key: meta[key] for key in ('classes', 'palette') if key in meta})[0]


@functools.cache
def _versions() -> dict[str, str]:
    found = dict(python=platform.python_version())
    for name in PACKAGES:
        for package in (name, f'onedl-{name}', f'onedl-{name.replace("mmdet", "mmdetection")}'):
            try:
                found[name] = importlib.metadata.version(package)
                break
            except importlib.metadata.PackageNotFoundError:
                continue
    return found


def _load(module: nn.Module, saved: dict[str, Tensor]) -> None:
    module.load_state_dict(saved, strict=True)
    changed = [name for name, value in module.state_dict().items() if not _same(value, saved[name])]
    if changed:
        raise RuntimeError(f'{changed[0]} is not what was saved: a hook of the model changed it while it was loaded')


def _same(value: Tensor, saved: Tensor) -> bool:
    here = value.detach().cpu()
    return here.equal(saved) or bool(((here == saved) | ((here != here) & (saved != saved))).all())  # NaN is NaN


def _check(runner: Runner, tree: dict, model: nn.Module, averages: list[EMAHook], schedulers: dict[str, list]) -> None:
    """Find all that does not fit before anything is changed."""
    wrong = _differences('the model', model.state_dict(), tree['model'])
    if len(averages) != len(tree['ema']):
        wrong.append(f'the run has {len(averages)} EMAHooks, saved were {len(tree["ema"])}')
    for hook, saved in zip(averages, tree['ema'], strict=False):
        wrong += _differences('the average of weights', hook.ema_model.state_dict(), saved)
    found = wrappers(runner.optim_wrapper)
    if set(found) != set(tree['optimizers']):
        wrong.append(f'the optimisers are {sorted(found)}, saved were {sorted(tree["optimizers"])}')
    else:
        wrong += [fault for name in found for fault in check_optimizer(found[name], model, tree['optimizers'][name])]
    here = {name: [type(one).__name__ for one in group] for name, group in schedulers.items()}
    there = {name: [one['type'] for one in group] for name, group in tree['schedulers'].items()}
    if here != there:
        wrong.append(f'param_scheduler makes {here}, saved were {there}')
    metas = _dataset_meta(runner.train_loop), tree.get('dataset_meta', {})
    classes, before = (from_plain(meta).get('classes') for meta in metas)
    if classes is not None and before is not None and list(classes) != list(before):
        wrong.append(f'the training data have the classes {list(classes)[:5]}, saved were {list(before)[:5]}')
    if wrong:
        more = f' and {len(wrong) - 5} more' if len(wrong) > 5 else ''
        raise ValueError(
            f'the saved run does not fit this config: {"; ".join(wrong[:5])}{more}. Resume with the config of the run; '
            'to start a new run from its weights, use load_from'
        )


def _differences(what: str, here: dict[str, Tensor], saved: dict[str, Tensor]) -> list[str]:
    wrong = [f'{what} has {name}, which was not saved' for name in here if name not in saved]
    wrong += [f'{what} has no {name}, which was saved' for name in saved if name not in here]
    return wrong + [
        f'{name} of {what} is {tuple(value.shape)} {value.dtype}, saved was {tuple(saved[name].shape)} '
        f'{saved[name].dtype}'
        for name, value in here.items()
        if name in saved and (value.shape, value.dtype) != (saved[name].shape, saved[name].dtype)
    ]


def _changes(tree: dict[str, Any], loop: Any) -> list[str]:
    """What is not as it was: batch and versions."""
    notes, now, versions = [], _batch(loop), _versions()
    if now['total'] != tree['batch']['total']:
        notes.append(f'the total batch is {now["total"]}, it was {tree["batch"]["total"]}')
    if now['processes'] != tree['batch']['processes']:
        notes.append(
            f'{now["processes"]} processes, it was {tree["batch"]["processes"]}: each epoch still has every image, '
            'but sums of another order round differently, so weights are not bit by bit those of an uninterrupted run'
        )
    before = tree.get('versions', {})
    other = [f'{name} {versions.get(name)} (was {was})' for name, was in before.items() if versions.get(name) != was]
    return [*notes, f'other versions: {", ".join(other)}'] if other else notes
