"""Files of every format are told by their content, and their wrappers peeled off."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer
from safetensors.torch import save_file
from weights.by_hand import WEIGHT, Call, saved

from backbones.weights.read import peel, read_state


@pytest.mark.parametrize('name', ['w.pth', 'w.pt', 'w.bin', 'wrong_name.npz', 'wrong_name.safetensors'])
def test_torch_files_are_read_whatever_their_name(name: str, tmp_path: Path) -> None:
    assert torch.equal(read_state(saved(tmp_path / name, {'a.weight': WEIGHT}))['a.weight'], WEIGHT)


def test_files_of_torch_before_1_6_are_read(tmp_path: Path) -> None:
    path = saved(tmp_path / 'w.pth', {'a': WEIGHT}, _use_new_zipfile_serialization=False)
    assert torch.equal(read_state(path)['a'], WEIGHT)


def test_safetensors_are_read(tmp_path: Path) -> None:
    save_file({'a': WEIGHT}, tmp_path / 'w.safetensors')
    assert torch.equal(read_state(tmp_path / 'w.safetensors')['a'], WEIGHT)


def test_numpy_archives_are_read(tmp_path: Path) -> None:
    np.savez(tmp_path / 'w.npz', **{'Transformer/kernel': WEIGHT.numpy()})
    assert torch.equal(read_state(tmp_path / 'w.npz')['Transformer/kernel'], WEIGHT)


@pytest.mark.parametrize(
    'content',
    [
        {'model': {'a': WEIGHT}, 'optimizer': {'state': {0: {'exp_avg': WEIGHT}}}},
        {'state_dict': {'a': WEIGHT}, 'meta': {'epoch': 1}},
        {'teacher': {'a': WEIGHT}, 'student': {'a': 0 * WEIGHT}},
        {'model': {'a': WEIGHT}, 'model_ema': {'a': 0 * WEIGHT}},
        {'model': {'state_dict': {'module.a': WEIGHT}}},
        {'module.module.a': WEIGHT},
        {'a': WEIGHT, 'epoch': 3},
    ],
)
def test_wrappers_are_peeled(content: dict, tmp_path: Path) -> None:
    state = read_state(saved(tmp_path / 'w.pth', content))
    assert list(state) == ['a']
    assert torch.equal(state['a'], WEIGHT)


def test_files_saved_by_mmengine_are_read(tmp_path: Path) -> None:
    buffer = HistoryBuffer([1.0, 2.0], [1, 1])
    content = {
        'state_dict': {'a': WEIGHT},
        'message_hub': {'log_scalars': {'loss': buffer}},
        'score': np.float64(0.5),
    }
    assert list(read_state(saved(tmp_path / 'w.pth', content))) == ['a']


@pytest.mark.parametrize('wrapper', ['weights', 'net', 'ema', 'student', 'model_ema'])
def test_an_unknown_wrapper_is_opened_if_it_is_the_only_one(wrapper: str) -> None:
    content = {
        wrapper: {'module.a': WEIGHT},
        'optimizer_state_dict': {'state': {0: {'exp_avg': WEIGHT}}, 'x': WEIGHT},
        'dino_loss': {'center': WEIGHT},
        'best': torch.tensor(3),
        'config': {'lr': 1.0},
    }
    assert list(peel(content, 'w.pth')) == ['a']


def test_two_unknown_wrappers_are_listed(tmp_path: Path) -> None:
    path = saved(tmp_path / 'w.pth', {'student': {'a': WEIGHT}, 'ema': {'model': {'a': WEIGHT}}, 'epoch': 3})
    with pytest.raises(ValueError, match=r"several state dicts: \['student', 'ema'\]; keep the one.*\['student'\]"):
        read_state(path)


@pytest.mark.parametrize('prefix', ['module.', '_orig_mod.', 'module._orig_mod.', '_orig_mod.module.'])
def test_prefixes_of_parallel_and_compiled_models_are_taken_off(prefix: str) -> None:
    assert list(peel({f'{prefix}a': WEIGHT, f'{prefix}b': WEIGHT}, 'w.pth')) == ['a', 'b']


def test_a_prefix_that_some_names_lack_is_kept() -> None:
    assert list(peel({'module.a': WEIGHT, 'b': WEIGHT}, 'w.pth')) == ['module.a', 'b']


def test_mappings_that_hold_each_other_are_left() -> None:
    knot: dict = {'epoch': 1}
    knot['model'] = {'model': knot, 'net': knot}
    with pytest.raises(ValueError, match='holds no weights'):
        peel(knot, 'w.pth')
    assert list(peel({'model': {'a': WEIGHT, 'knot': knot}}, 'w.pth')) == ['a']


def mapped_file(tensor: torch.Tensor) -> str:
    """Name the file that is mapped at a tensor's memory."""
    for line in Path('/proc/self/maps').read_text().splitlines():
        span, *_, name = line.split(maxsplit=5)
        start, end = (int(part, 16) for part in span.split('-'))
        if start <= tensor.data_ptr() < end:
            return name
    return ''


@pytest.mark.skipif(not Path('/proc/self/maps').exists(), reason='needs Linux to look at the memory')
@pytest.mark.parametrize('name', ['w.pth', 'w.safetensors'])
def test_weights_stay_in_the_mapped_file(name: str, tmp_path: Path) -> None:
    content = {'a': torch.rand(1000, 100)}
    (save_file if name.endswith('safetensors') else torch.save)(content, tmp_path / name)
    state = read_state(tmp_path / name)
    assert mapped_file(state['a']) == str(tmp_path / name)
    state['a'] += 1  # the file is not written to
    assert torch.equal(read_state(tmp_path / name)['a'], content['a'])


def test_what_other_code_allowed_is_not_allowed_here(tmp_path: Path) -> None:
    path = saved(tmp_path / 'w.pth', {'a': WEIGHT, 'b': Call(print, 'executed')})
    before = torch.serialization.get_safe_globals()
    torch.serialization.add_safe_globals([print])
    try:
        with pytest.raises(ValueError, match=r"'builtins\.print' would have to be executed"):
            read_state(path)
        read_state(saved(path, {'a': WEIGHT}))
        assert set(torch.serialization.get_safe_globals()) == {*before, print}  # and it is left as it was
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(before)


def test_torch_itself_refuses_what_the_check_would_let_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr('backbones.weights.pickles.check_archive', lambda *_: None)
    path = saved(tmp_path / 'w.pth', {'a': WEIGHT, 'b': Call(print, 'executed')})
    with pytest.raises(ValueError, match="'print' would have to be executed; where you trust"):
        read_state(path)


@pytest.mark.filterwarnings('ignore:Detected pickle protocol')
def test_a_torch_file_of_another_protocol_is_refused_with_the_remedy(tmp_path: Path) -> None:
    path = saved(tmp_path / 'w.pth', {'a': WEIGHT}, pickle_protocol=4)
    with pytest.raises(ValueError, match=r'does not read it \(Unsupported operand 149\); save it again'):
        read_state(path)
