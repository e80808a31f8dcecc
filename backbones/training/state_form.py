"""Whether a state tree has the form that `run_state.capture` gives it; files can be forged consistently."""

from __future__ import annotations

from typing import Any

from torch import Tensor

FORMAT = 1
PARTS = dict(
    model=dict, ema=list, optimizers=dict, schedulers=dict, message_hub=dict, hooks=dict, progress=dict, random=list,
    seed=int, batch=dict)
LEG = {'processes', 'batch_size', 'grouping', 'group_size', 'batches'}
MOST = 10**12  # steps, epochs, images: more than any run has


def check_form(tree: dict[str, Any]) -> None:
    """Refuse what is no state, before anything of it is used.

    Raises:
        ValueError: naming the part.
    """
    if tree.get('format') != FORMAT:
        raise ValueError(f'the saved state has format {tree.get("format")!r}, this version reads {FORMAT}')
    missing = [name for name in PARTS if name not in tree]
    if missing:
        raise ValueError(
            f'the saved state lacks {", ".join(missing)}, so it cannot be resumed exactly; save with '
            'save_optimizer=True and save_param_scheduler=True, or start a new run from its weights by load_from'
        )
    wrong = [name for name, kind in PARTS.items() if type(tree[name]) is not kind]
    wrong += [] if wrong else _wrong_content(tree)
    if wrong:
        raise ValueError(
            f'the saved state is none that a run can have had: {"; ".join(wrong[:5])}; resume from another checkpoint'
        )


def _wrong_content(tree: dict[str, Any]) -> list[str]:
    progress, batch, hub = tree['progress'], tree['batch'], tree['message_hub']
    wrong = [f'progress.{name} is {str(progress.get(name))[:40]!r}' for name in ('epoch', 'iter')
             if not _is_count(progress.get(name))]
    wrong += [f'batch.{name} is {str(batch.get(name))[:40]!r}' for name in ('total', 'processes')
              if not _is_count(batch.get(name))]
    if type(progress.get('validation_due')) is not bool:
        wrong.append(f'progress.validation_due is {str(progress.get("validation_due"))[:40]!r}')
    if not _is_place(progress.get('place')):
        wrong.append('progress.place is no place in the data')
    wrong += [f'message_hub.{name} is no dict' for name in ('scalars', 'info', 'resumed_keys')
              if type(hub.get(name)) is not dict]
    if not tree['random'] or not all(type(states) is dict for states in tree['random']):
        wrong.append('random has no states')
    weights = [tree['model'], *tree['ema']]
    if not all(type(held) is dict and all(isinstance(value, Tensor) for value in held.values()) for held in weights):
        wrong.append('model or ema holds other things than tensors')
    return wrong


def _is_place(place: Any) -> bool:
    """As `Feed.place` gives it."""
    if type(place) is not dict or not _is_count(place.get('epoch')) or type(place.get('legs')) is not list:
        return False
    return all(
        type(leg) is dict and set(leg) >= LEG and _is_count(leg['batches']) and _is_count(leg['processes'])
        for leg in place['legs'])


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value <= MOST
