"""A state that was saved with other parameter groups than the run has, where only the grouping of equals differs.

MMEngine makes one group per parameter, `backbones.parameter_groups` one for all of equal settings. Both mean the same,
so a run goes on from either. Where two parameters had the same settings and now have not, or the other way round, the
config means something else: such a state stays as it is, and `optimizer_state.check_optimizer` refuses it.
"""

from __future__ import annotations

from typing import Any

from mmengine.optim import OptimWrapper
from torch import nn

from .optimizer_state import capture_optimizer

PER_GROUP = ('base_values', '_last_value', 'min_values')  # what MMEngine's schedulers keep for each group


def regrouped(
    tree: dict[str, Any], optimizers: dict[str, OptimWrapper], model: nn.Module
) -> tuple[dict[str, Any], list[str]]:
    """Sort the optimisers and schedulers of a saved state into the parameter groups of the run.

    Args:
        tree: what `run_state.capture` gave; left as it is.
        optimizers: those of the run, by name.
        model: whose parameters they have.

    Returns:
        The state, and lines for the log.
    """
    saved, schedulers, notes = dict(tree['optimizers']), dict(tree['schedulers']), []
    for name, wrapper in optimizers.items():
        there = saved.get(name)
        here = capture_optimizer(wrapper, model)['groups']  # before the first step, so without moments
        if there is None or [group['names'] for group in there['groups']] == [group['names'] for group in here]:
            continue
        sources = _sources(here, there['groups'])
        if sources is None:
            continue
        groups = [
            dict(names=group['names'], settings=there['groups'][source]['settings'])
            for group, source in zip(here, sources, strict=True)]
        saved[name] = dict(there, groups=groups)
        schedulers[name] = [
            dict(one, state=_per_group(one['state'], sources, len(there['groups']))) for one in schedulers.get(name, [])
        ]
        notes.append(
            f'the optimiser has {len(here)} parameter groups, saved were {len(there["groups"])}: each parameter goes '
            'on with its own settings')
    return dict(tree, optimizers=saved, schedulers=schedulers), notes


def _sources(here: list[dict[str, Any]], there: list[dict[str, Any]]) -> list[int] | None:
    """For each group of the run the number of a saved one with its settings; None where the groups differ in earnest.

    Two parameters have equal settings here exactly if they had equal settings there.
    """
    now = {name: _key(group) for group in here for name in group['names']}
    then = {name: (_key(group), number) for number, group in enumerate(there) for name in group['names']}
    if set(now) != set(then) or len(there) == 1:  # of a single group, MMEngine keeps no base settings
        return None
    pairs = {(now[name], then[name][0]) for name in now}
    if not len(pairs) == len(set(now.values())) == len({key for key, _ in then.values()}):
        return None
    return [then[group['names'][0]][1] for group in here]


def _key(group: dict[str, Any]) -> str:
    return repr(sorted(group['settings'].items()))


def _per_group(state: dict[str, Any], sources: list[int], before: int) -> dict[str, Any]:
    """A scheduler's state for other groups; the last of its values is that of the base settings, if there are any."""
    places = [*sources, before] if len(sources) > 1 else sources
    return {
        key: [value[place] for place in places]
        if key in PER_GROUP and isinstance(value, list) and len(value) == before + 1 else value
        for key, value in state.items()}
