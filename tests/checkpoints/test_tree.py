"""A state tree parted into tensors and JSON, and put together again."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from checkpoint_helpers import same, small_tree

from backbones.checkpoints.tree import flatten, unflatten


def through(tree: dict) -> dict:
    """There, through JSON text, and back."""
    tensors, skeleton = flatten(tree)
    return unflatten(json.loads(json.dumps(skeleton, allow_nan=False)), tensors)


def test_a_tree_comes_back_equal_to_the_bit() -> None:
    assert same(through(small_tree()), small_tree())


@pytest.mark.parametrize('value', [
    math.nan, math.inf, -math.inf, -0.0, 5e-324, 0.1, 2**200, -1, True, None, '', 'ä\ud800\n', (), [], {},
    (1, (2.0, [])),
    {1: 'a', '1': 'b', '$tensor': 'c'}, {'a.b': 1, 'a': {'b': 2}}, [[], {}, ()],
], ids=repr)
def test_each_kind_of_value_comes_back_as_it_was(value: Any) -> None:
    assert same(through({'x': value}), {'x': value})


@pytest.mark.parametrize('value', [
    np.float64(1), np.int64(1), np.zeros(2), b'x', {1.5: 0}, {True: 0}, {None: 0}, {1, 2}, 1j, object(), print, 2**5000,
    torch.zeros(2, device='meta'), torch.eye(2).to_sparse(), type('Own', (dict,), {})(),
], ids=lambda value: type(value).__name__)
def test_anything_else_is_refused_with_its_place(value: Any) -> None:
    with pytest.raises(ValueError, match=r'hub\.logs\[1\]'):
        flatten({'hub': {'logs': [0, value]}})


def test_a_tree_that_holds_itself_is_refused() -> None:
    loop: list = []
    loop.append(loop)
    with pytest.raises(ValueError, match='levels deep'):
        flatten({'x': loop})


def test_a_tied_tensor_comes_back_as_one_tensor() -> None:
    weight = torch.rand(3, 2)
    model = through({'model': {'embed': weight, 'head': weight, 'other': weight.clone()}})['model']
    assert model['head'] is model['embed'] and model['other'] is not model['embed']


def test_views_of_one_memory_come_back_with_their_own_values() -> None:
    flat = torch.arange(12.0)
    views = {'a': flat[:6], 'b': flat[6:].view(2, 3), 'c': flat[4:8], 'd': flat.view(3, 4).t(), 'e': flat[::2]}
    tree = {'model': views}
    assert same(through(tree), tree)


def test_a_tensor_in_channels_last_order_keeps_that_order() -> None:
    tree = {'optimizer': {'m': torch.rand(2, 3, 4, 5).to(memory_format=torch.channels_last)}}
    assert through(tree)['optimizer']['m'].stride() == tree['optimizer']['m'].stride() and same(through(tree), tree)


def test_the_weights_bear_their_state_dict_names() -> None:
    tensors, _ = flatten(small_tree())
    assert sorted(tensors) == ['ema', 'model', 'state'] and list(tensors['model']) == ['conv.weight', 'norm.bias']


def test_two_tensors_whose_names_would_be_equal_are_both_kept() -> None:
    tree = {'x': {'a': {'b': torch.zeros(1)}, 'a.b': torch.ones(1)}}
    assert same(through(tree), tree)


@pytest.mark.parametrize('skeleton', [
    None, [], 'x', {'$tuple': []}, {'a': {'$tensor': 1}}, {'a': {'$tensor': 'model:no'}}, {'a': {'$float': '1'}},
    {'a': {'$tuple': 1}}, {'a': {'$dict': [[1.5, 0]]}}, {'a': {'$dict': {}}}, {'a': {'$call': 'os.system'}},
    {'a': {'$tensor': 'model:w', 'stride': [0, 0]}}, {'a': {'$tensor': 'model:w', 'stride': [10**9, 1]}},
    {'a': {'$tensor': 'model:w', 'stride': 'x'}}, {'a': {'$tensor': 'model:w', 'same': 'w'}},
    {'a': {'$tensor': 'model:w', 'more': 1}}, {'a': [{'$tensor': 'model:w'}, {'$tensor': 'model:w'}]}, {'a': 1},
], ids=str)
def test_a_skeleton_that_was_never_written_is_refused(skeleton: Any) -> None:
    with pytest.raises(ValueError):
        unflatten(skeleton, {'model': {'w': torch.zeros(2, 2)}})
