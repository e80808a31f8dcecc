"""One checkpoint on the disk: written whole, verified, read back."""

from __future__ import annotations

import errno
import json
import os
import pickle
import random
import resource
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from checkpoint_helpers import in_child, same, small_tree
from safetensors.torch import load_file

from backbones.checkpoints import read_checkpoint, read_weights, verify_checkpoint, write_checkpoint
from backbones.checkpoints import store as store_module
from backbones.checkpoints.store import read_manifest
from backbones.training import inject


@pytest.fixture(autouse=True)
def no_faults():
    """Faults of one test end with it."""
    yield
    inject.configure('')


def test_a_checkpoint_reads_back_equal_to_the_bit(tmp_path: Path) -> None:
    assert same(read_checkpoint(write_checkpoint(tmp_path, 'iter_000007', small_tree())), small_tree())


@pytest.mark.parametrize('dtype', [
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8,
    torch.uint8, torch.bool, torch.uint16, torch.uint32, torch.uint64, torch.complex64, torch.float8_e4m3fn], ids=str)
def test_tensors_of_each_type_read_back_equal_to_the_bit(tmp_path: Path, dtype: torch.dtype) -> None:
    raw = torch.randint(0, 2, (48,), dtype=torch.uint8)
    tree = {'model': {'x': raw.view(torch.bool) if dtype == torch.bool else raw.view(dtype),
                      'none': torch.zeros(0, 3, dtype=dtype), 'one': torch.zeros((), dtype=dtype)}}
    assert same(read_checkpoint(write_checkpoint(tmp_path, 'iter_1', tree)), tree)


def test_a_number_type_without_a_name_in_the_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match='complex128'):
        write_checkpoint(tmp_path, 'iter_1', {'model': {'x': torch.zeros(1, dtype=torch.complex128)}})


def test_any_safetensors_reader_opens_the_weights(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path, 'iter_1', small_tree())
    assert same(dict(sorted(load_file(path / 'model.safetensors').items())), small_tree()['model'])


def test_the_folder_holds_what_the_manifest_names_and_nothing_else(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path, 'epoch_000003', small_tree(), iteration=99)
    manifest = read_manifest(path)
    assert {file.name for file in path.iterdir()} == {*manifest.files, 'manifest.json'}
    assert [entry.name for entry in tmp_path.iterdir()] == ['epoch_000003'] and manifest.iteration == 99


def test_a_name_that_is_taken_gets_a_number_and_the_old_one_stays(tmp_path: Path) -> None:
    first, second = (write_checkpoint(tmp_path, 'iter_1', small_tree(seed)) for seed in (1, 2))
    assert second.name == 'iter_1-2' and same(read_checkpoint(first), small_tree(1))
    assert read_manifest(second).sequence == read_manifest(first).sequence + 1


@pytest.mark.parametrize('name', ['', 'x', '../iter_1', 'iter_1-2', 'iter_', 'iter_1\n', 'best_1'])
def test_a_name_that_could_not_be_found_again_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match='iter_000120'):
        write_checkpoint(tmp_path, name, small_tree())


def test_every_one_of_1000_flipped_bits_is_found(tmp_path: Path, figure: Callable) -> None:
    path = write_checkpoint(tmp_path, 'iter_1', small_tree(size=8))
    files = {file: file.read_bytes() for file in sorted(path.iterdir())}
    draw = random.Random(0)
    for number in range(1000):
        file = list(files)[number % len(files)]
        content = bytearray(files[file])
        content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        file.write_bytes(content)
        with pytest.raises(ValueError, match=file.name.replace('.', r'\.')):
            read_checkpoint(path)
        figure('bit_flips', found=1)
        file.write_bytes(files[file])
    read_checkpoint(path)


def test_every_one_of_100_truncations_is_found(tmp_path: Path, figure: Callable) -> None:
    path = write_checkpoint(tmp_path, 'iter_1', small_tree(size=8))
    files = {file: file.read_bytes() for file in sorted(path.iterdir())}
    draw = random.Random(0)
    for number in range(100):
        file = list(files)[number % len(files)]
        file.write_bytes(files[file][: draw.randrange(len(files[file]))])
        with pytest.raises(ValueError, match=file.name.replace('.', r'\.')):
            verify_checkpoint(path)
        with pytest.raises(ValueError, match=file.name.replace('.', r'\.')):
            read_checkpoint(path)
        figure('truncations', found=1)
        file.write_bytes(files[file])


@pytest.mark.parametrize('damage', ['missing', 'longer', 'link', 'pipe', 'folder', 'swapped'])
def test_what_is_not_the_file_that_was_written_is_named(tmp_path: Path, damage: str) -> None:
    path = write_checkpoint(tmp_path, 'iter_1', small_tree())
    file = path / 'state.safetensors'
    if damage == 'longer':
        file.write_bytes(file.read_bytes() + b'0')
    elif damage == 'swapped':
        shutil.copy(path / 'model.safetensors', file)
    else:
        file.rename(tmp_path / 'moved')
        {'missing': lambda: None, 'link': lambda: file.symlink_to(tmp_path / 'moved'),
         'pipe': lambda: os.mkfifo(file), 'folder': file.mkdir}[damage]()
    for read in (read_checkpoint, verify_checkpoint, read_weights):
        with pytest.raises(ValueError, match=r'state\.safetensors'):
            read(path)


def test_a_weight_file_of_another_checkpoint_is_refused(tmp_path: Path) -> None:
    first, second = (write_checkpoint(tmp_path, f'iter_{seed}', small_tree(seed)) for seed in (1, 2))
    shutil.copy(first / 'model.safetensors', second / 'model.safetensors')
    with pytest.raises(ValueError, match=r'model\.safetensors has the sha256 \w+\.\.\. and should have'):
        read_checkpoint(second)


class Bomb:
    """Runs code when it is unpickled."""

    def __reduce__(self):
        return os.mkdir, ('exploded',)


def test_a_pickle_in_the_folder_is_never_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = write_checkpoint(tmp_path, 'iter_1', small_tree())
    for name in ('model.pth', 'state.pkl', 'optimizer.safetensors', 'training_args.bin'):
        (path / name).write_bytes(pickle.dumps(Bomb()))
    before = {file: file.stat().st_atime_ns for file in path.iterdir()}
    assert same(read_checkpoint(path), small_tree()) and before and not Path('exploded').exists()


def forge(path: Path, name: str, content: bytes) -> None:
    """Put `content` into a checkpoint with a manifest that is right about it."""
    (path / name).write_bytes(content)
    manifest = read_manifest(path)
    manifest.files[name] = (len(content), store_module.hashlib.sha256(content).hexdigest())
    (path / 'manifest.json').write_bytes(store_module._manifest_text(manifest))


def state(tree: object) -> bytes:
    """A state.json with any tree."""
    return json.dumps(dict(format='backbones.checkpoint', version=1, tree=tree)).encode()


@pytest.mark.parametrize('content', [
    b'', b'null', b'[]', b'{}', b'{"a": NaN}', b'[' * 100_000, b'{"a":' * 100_000, state(None), state([]),
    state({'model': 1}),
    state({'x': {'$tensor': ['model', 'w']}}), state({'x': {'$eval': '1'}}), b'\xff\xfe', pickle.dumps(Bomb()),
    state({'x': 0}).replace(b'0}', b'[' * 300 + b']' * 300 + b'}'), state({'x': 0}).replace(b'0}', b'9' * 9999 + b'}'),
], ids=range(16))
def test_a_forged_state_file_is_refused_in_one_sentence(tmp_path: Path, content: bytes) -> None:
    path = write_checkpoint(tmp_path, 'iter_1', small_tree(size=2))
    forge(path, 'state.json', content)
    with pytest.raises(ValueError, match=r'state\.json'):
        read_checkpoint(path)


@pytest.mark.parametrize('content', [
    b'', b'\0' * 8, b'\xff' * 64, (1 << 60).to_bytes(8, 'little') + b'{}', pickle.dumps(Bomb()),
    (2).to_bytes(8, 'little') + b'{}',
], ids=range(6))
def test_a_forged_weight_file_is_refused_in_one_sentence(tmp_path: Path, content: bytes) -> None:
    path = write_checkpoint(tmp_path, 'iter_1', small_tree(size=2))
    forge(path, 'model.safetensors', content)
    with pytest.raises(ValueError, match=f'checkpoint {path} cannot be used'):
        read_checkpoint(path)


@pytest.mark.parametrize('content', [
    b'', b'{}', b'[]', b'{"manifest": 1}', b'[' * 100_000, b'x' * (2 << 20)], ids=range(6))
def test_a_forged_manifest_is_refused_in_one_sentence(tmp_path: Path, content: bytes) -> None:
    path = write_checkpoint(tmp_path, 'iter_1', small_tree(size=2))
    (path / 'manifest.json').write_bytes(content)
    with pytest.raises(ValueError, match=r'manifest\.json is damaged'):
        read_checkpoint(path)


def test_a_manifest_cannot_name_files_elsewhere(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path, 'iter_1', small_tree(size=2))
    forge(path, '../secret', b'x')
    with pytest.raises(ValueError, match='names other files'):
        read_checkpoint(path)


@pytest.mark.parametrize('kind', ['enospc', 'edquot', 'efbig', 'erofs', 'eacces', 'eio'])
@pytest.mark.parametrize('where', ['mkdir', '0', '0.5', '1', 'fsync', 'manifest', 'verify', 'rename'])
def test_after_an_error_of_the_system_nothing_is_left_and_the_older_one_is_whole(
    tmp_path: Path, kind: str, where: str
) -> None:
    older = write_checkpoint(tmp_path, 'iter_1', small_tree(1))
    inject.configure(f'{kind}@save:{where}')
    with pytest.raises(OSError) as caught:
        write_checkpoint(tmp_path, 'iter_2', small_tree(2))
    assert caught.value.errno == getattr(errno, kind.upper())
    assert [entry.name for entry in tmp_path.iterdir()] == ['iter_1'] and same(read_checkpoint(older), small_tree(1))


def test_a_limit_on_the_size_of_files_leaves_the_older_one_whole(tmp_path: Path) -> None:
    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (3000, resource.RLIM_INFINITY))
        try:
            write_checkpoint(tmp_path, 'iter_2', small_tree(2, size=2000))
        except OSError as error:
            os._exit(error.errno)

    older = write_checkpoint(tmp_path, 'iter_1', small_tree(1))
    assert in_child(limited) == errno.EFBIG
    assert [entry.name for entry in tmp_path.iterdir()] == ['iter_1'] and same(read_checkpoint(older), small_tree(1))


def test_a_save_that_cannot_fit_is_not_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(store_module.shutil, 'disk_usage', lambda path: usage._replace(free=1000))
    with pytest.raises(OSError, match=r'needs 0\.0 MB and 0\.0 MB are free') as caught:
        write_checkpoint(tmp_path, 'iter_1', small_tree())
    assert caught.value.errno == errno.ENOSPC and not list(tmp_path.iterdir())


def test_what_does_not_read_back_as_it_was_written_is_not_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.write
    monkeypatch.setattr(os, 'write', lambda handle, data: real(handle, bytes(len(data))))
    with pytest.raises(ValueError, match='manifest'):
        write_checkpoint(tmp_path, 'iter_1', small_tree())
    assert not list(tmp_path.iterdir())


def test_weights_are_the_averaged_ones_where_there_are_any(tmp_path: Path) -> None:
    found = read_weights(write_checkpoint(tmp_path, 'iter_1', small_tree()))
    wanted = {name: value + 1 for name, value in small_tree()['model'].items()}
    assert same(found['state_dict'], wanted) and found['meta']['dataset_meta']['classes'] == ['cat', 'dog']
