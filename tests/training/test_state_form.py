"""What is refused as a state before anything of it is used."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from backbones.training.state_form import check_form


def bare_state() -> dict[str, Any]:
    """The form of a state, with next to nothing in it."""
    return dict(
        format=1, model=dict(weight=torch.zeros(1)), ema=[], optimizers={}, schedulers={}, hooks={}, random=[{}],
        seed=0, message_hub=dict(scalars={}, info={}, resumed_keys={}), batch=dict(total=2, processes=1),
        progress=dict(epoch=0, iter=3, validation_due=False, place=dict(epoch=0, legs=[])))


@pytest.mark.parametrize('value', [-5, 10**18, 'abc', 3.0, None, True], ids=str)
@pytest.mark.parametrize('name', ['iter', 'epoch'])
def test_a_count_that_no_run_can_have_reached_is_refused(name: str, value: Any) -> None:
    tree = bare_state()
    tree['progress'][name] = value
    with pytest.raises(ValueError, match=rf'none that a run can have had: progress\.{name} is .*another checkpoint'):
        check_form(tree)


@pytest.mark.parametrize('change', [
    lambda tree: tree.update(seed='7'), lambda tree: tree.update(ema={}), lambda tree: tree.update(random=[]),
    lambda tree: tree.update(random=['x']), lambda tree: tree['model'].update(weight=[1.0]),
    lambda tree: tree['progress'].update(validation_due=1), lambda tree: tree['progress'].update(place=None),
    lambda tree: tree['progress']['place'].update(legs=[dict(batches=3)]), lambda tree: tree['batch'].update(total=-1),
    lambda tree: tree['message_hub'].pop('scalars'), lambda tree: tree.update(hooks=None)])
def test_a_state_of_wrong_types_is_refused_in_one_sentence(change: Callable) -> None:
    tree = bare_state()
    check_form(tree)
    change(tree)
    with pytest.raises(ValueError, match='the saved state is none that a run can have had'):
        check_form(tree)
