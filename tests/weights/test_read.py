"""Files are told by their content, damaged ones are named, and nothing in a file is executed."""

from __future__ import annotations

import argparse
import functools
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer
from safetensors.torch import save_file

from backbones.weights.read import Opaque, read_file, read_state

WEIGHT = torch.arange(6.0).reshape(2, 3)


def saved(path: Path, content: Any, **options: Any) -> Path:
    """Save with torch and return the path."""
    torch.save(content, path, **options)
    return path


# --- containers ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize('name', ['w.pth', 'w.pt', 'w.bin', 'wrong_name.npz'])
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


def test_training_arguments_are_allowed_and_forgotten(tmp_path: Path) -> None:
    path = saved(tmp_path / 'w.pth', {'model': {'a': WEIGHT}, 'args': argparse.Namespace(lr=1.0)})
    args = read_file(path)['args']
    assert type(args) is Opaque
    assert not vars(args)


# --- nothing is executed ------------------------------------------------------------------------------------


class Call:
    """Pickles as a call of `function(*args)`."""

    def __init__(self, function: Callable, *args: Any) -> None:
        self.function, self.args = function, args

    def __reduce__(self) -> tuple:
        return self.function, self.args


class State:
    """Pickles as an object that is filled with a state."""


def malicious(marker: Path) -> dict[str, Any]:
    """Objects that create the file `marker` when they are unpickled carelessly."""
    command = f'touch {marker}'
    return {
        'posix.system': Call(os.system, command),
        'eval': Call(eval, f'__import__("os").system("{command}")'),
        'exec': Call(exec, f'import os; os.system("{command}")'),
        'builtins.getattr of a tensor': Call(getattr, WEIGHT, 'numpy'),
        'builtins.getattr of an allowed type': Call(getattr, argparse.Namespace, '__init__'),
        'io.open': Call(open, str(marker), 'w'),
        'functools.partial': Call(functools.partial, os.system, command),
        'numpy._core.multiarray._reconstruct': Call(np.empty(0).__reduce__()[0], np.ndarray, (10**12,), b'b'),
        'an own class': State(),
    }


@pytest.mark.parametrize('kind', malicious(Path()))
@pytest.mark.parametrize('new_format', [True, False])
def test_a_file_that_would_execute_something_is_refused(kind: str, new_format: bool, tmp_path: Path) -> None:
    marker = tmp_path / 'executed'
    content = {'model': {'a': WEIGHT}, 'meta': malicious(marker)[kind]}
    path = saved(tmp_path / 'w.pth', content, _use_new_zipfile_serialization=new_format)
    with pytest.raises(
        ValueError, match=r'w\.pth is refused.*would have to be executed.*torch\.save'
    ) as error:
        read_state(path)
    assert not marker.exists()
    name = kind.split()[0]
    assert name in str(error.value) or kind == 'an own class'


def test_what_other_code_allowed_is_not_allowed_here(tmp_path: Path) -> None:
    path = saved(tmp_path / 'w.pth', {'a': WEIGHT, 'b': Call(print, 'executed')})
    before = torch.serialization.get_safe_globals()
    torch.serialization.add_safe_globals([print])
    try:
        with pytest.raises(ValueError, match="'print' would have to be executed"):
            read_state(path)
        assert set(torch.serialization.get_safe_globals()) == {*before, print}  # and it is left as it was
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(before)


def test_a_plain_pickle_is_refused(tmp_path: Path) -> None:
    (tmp_path / 'w.pth').write_bytes(pickle.dumps({'a': Call(os.system, f'touch {tmp_path / "executed"}')}))
    with pytest.raises(ValueError, match='is a plain pickle, which can execute code'):
        read_state(tmp_path / 'w.pth')
    assert not (tmp_path / 'executed').exists()


def test_objects_in_numpy_archives_are_refused(tmp_path: Path) -> None:
    np.savez(
        tmp_path / 'w.npz', a=np.array([Call(os.system, f'touch {tmp_path / "executed"}')], dtype=object)
    )
    with pytest.raises(ValueError, match='something else than plain arrays'):
        read_state(tmp_path / 'w.npz')
    assert not (tmp_path / 'executed').exists()


# --- damaged and mistaken files -----------------------------------------------------------------------------


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r'none\.pth: there is no such file; correct the path'):
        read_state(tmp_path / 'none.pth')


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r'there is no folder .*nowhere'):
        read_state(tmp_path / 'nowhere' / 'w.pth')


@pytest.mark.parametrize(
    'content, message',
    [
        (b'', r'is empty \(0 bytes\); download it again'),
        (b'<!DOCTYPE html><html>Sign in</html>', 'is a web page, not a checkpoint.*needs a login'),
        (b'\n <html>404</html>', 'is a web page'),
        (b'version https://git-lfs.github.com/spec/v1\noid sha256:0', 'is a git-lfs pointer.*git lfs pull'),
        (b'hello world, no weights here', 'is no checkpoint.*torch.save'),
        ((10**12).to_bytes(8, 'little') + b'{"a": 1}', 'header is longer than the file'),
        ((8).to_bytes(8, 'little') + b'{"a": 1}', 'is damaged'),
    ],
)
def test_a_file_of_another_kind_is_named(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / 'w.pth').write_bytes(content)
    with pytest.raises(ValueError, match=rf'(?s)w\.pth.*{message}'):
        read_state(tmp_path / 'w.pth')


@pytest.mark.parametrize('keep', [0.1, 0.5, 0.99])
@pytest.mark.parametrize('kind', ['pth', 'old', 'safetensors', 'npz'])
def test_a_truncated_file_is_refused(kind: str, keep: float, tmp_path: Path) -> None:
    path = tmp_path / 'w'
    content = {'a': torch.rand(100, 100)}
    if kind == 'safetensors':
        save_file(content, path)
    elif kind == 'npz':
        np.savez(tmp_path / 'w.npz', a=content['a'].numpy())
        (tmp_path / 'w.npz').rename(path)
    else:
        saved(path, content, _use_new_zipfile_serialization=kind == 'pth')
    data = path.read_bytes()
    path.write_bytes(data[: int(keep * len(data))])
    with pytest.raises(ValueError, match=r'truncated|damaged|would have to be executed'):
        read_state(path)


def test_a_torchscript_archive_is_refused_with_the_remedy(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / 'w.pt', 'w') as archive:
        for name in ('w/data.pkl', 'w/constants.pkl', 'w/code/__torch__.py'):
            archive.writestr(name, b'x')
    with pytest.raises(ValueError, match=r'TorchScript archive.*torch\.jit\.load'):
        read_state(tmp_path / 'w.pt')


def test_a_decompression_bomb_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / 'w.npz', 'w', zipfile.ZIP_DEFLATED) as archive:
        archive.writestr('a.npy', bytes(10**7))
    with pytest.raises(ValueError, match=r'unpacks to .* times its size'):
        read_state(tmp_path / 'w.npz')


@pytest.mark.parametrize(
    'content, message',
    [
        ({'optimizer': {'state': {}}, 'epoch': 3}, r"holds no weights: found only \['optimizer', 'epoch'\]"),
        ({'classes': ['a', 'b']}, r"holds no weights: found \['classes'\]"),
        ([WEIGHT], 'holds no weights: found list'),
    ],
)
def test_a_file_without_weights_is_refused(content: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        read_state(saved(tmp_path / 'w.pth', content))
