"""A data set comes to its place from the network, from archives or as a link, and is recognised there."""

from __future__ import annotations

import dataclasses
import errno
import os
import runpy
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import ROOT
from data_prepare.toy_sets import CONTENTS, FILES, TRAIN, VAL, toy_set, write_all, zipped
from web_server import Server

from backbones.checkpoints import faults
from backbones.data_prepare import fetch, unpack
from backbones.data_prepare.archives import DATA_SETS, DataSet
from backbones.data_prepare.place import prepare
from backbones.weights import download

ALL = {**TRAIN, **VAL, **FILES}
NO_WAIT = dict(progress=False, waits=())


def run(data: DataSet, root: Path, **options: object) -> list[str]:
    """Prepare, and return what was said."""
    said: list[str] = []
    prepare(data, root, say=said.append, **NO_WAIT, **options)
    return said


def there(folder: Path) -> dict[str, bytes]:
    """All files below a folder."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob('*') if path.is_file()}


@pytest.fixture
def archives(tmp_path: Path) -> Path:
    return write_all(tmp_path / 'archives_of_mine', CONTENTS)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """An unpacked copy elsewhere."""
    return write_all(tmp_path / 'elsewhere' / 'coco', ALL)


# --- the table ------------------------------------------------------------------------------------------------


def test_the_folders_of_the_table_are_those_of_the_configs() -> None:
    coco = (ROOT / 'configs/_base_/datasets/coco_ms.py').read_text()
    ade = (ROOT / 'configs/_base_/datasets/ade20k_512.py').read_text()
    assert all(f"'{path}'" in coco or f"'{path}/'" in coco for path in (*DATA_SETS['coco2017'].pictures,
                                                                      *DATA_SETS['coco2017'].files))
    for path in DATA_SETS['ade20k'].pictures:
        top, _, rest = path.partition('/')
        assert f"'data/{DATA_SETS['ade20k'].folder}/{top}'" in ade and f"'{rest}'" in ade
    assert all((ROOT / data.config).is_file() for data in DATA_SETS.values())


def test_every_part_of_the_table_comes_from_one_archive() -> None:
    for data in DATA_SETS.values():
        filled = [path for archive in data.archives for path in archive.fills]
        assert sorted(filled) == sorted([*data.pictures, *data.files])
        assert all(len(digits) in (32, 40, 64) for archive in data.archives for digits in archive.digests.values())


# --- from the network -----------------------------------------------------------------------------------------


def test_the_archives_are_downloaded_verified_unpacked_and_counted(server: Server, tmp_path: Path) -> None:
    said = run(toy_set(server.address), tmp_path / 'data')
    assert there(tmp_path / 'data/coco') == ALL  # captions are not wanted, nothing else is left
    assert any('8 + 3 files' in line for line in said)
    assert said[-2] == f'to check it:  python tools/check_data.py {tmp_path / "data/coco"}'
    assert said[-1].startswith('to train:     python tools/train.py configs/toy.py --cfg-options data_root=')


def test_what_is_whole_is_left_alone_and_nothing_is_asked_for(server: Server, tmp_path: Path) -> None:
    run(toy_set(server.address), tmp_path)
    asked = len(server.asked)
    assert run(toy_set(server.address), tmp_path)[0].startswith('nothing to do: toy COCO is whole (8 + 3 files)')
    assert len(server.asked) == asked


def test_only_the_archive_of_what_is_lacking_is_fetched(server: Server, tmp_path: Path) -> None:
    write_all(tmp_path / 'coco', {**TRAIN, **FILES})
    said = run(toy_set(server.address), tmp_path)
    assert server.asked == ['/val2017.zip'] and there(tmp_path / 'coco') == ALL
    assert any('lacks val2017 (0 of 3 files): completing it' in line for line in said)


def test_a_download_that_broke_off_is_taken_up_by_the_next_run(server: Server, tmp_path: Path) -> None:
    server.cuts = [200]
    with pytest.raises(ValueError, match=r'could not be downloaded: broke off after 200 of .*what has arrived is kept'):
        run(toy_set(server.address), tmp_path)
    run(toy_set(server.address), tmp_path)
    assert server.ranges_asked()[:2] == [None, 'bytes=200-'] and there(tmp_path / 'coco') == ALL


def test_another_file_at_the_official_address_is_refused_and_not_kept(server: Server, tmp_path: Path) -> None:
    right = server.files['/val2017.zip']
    server.files['/val2017.zip'] = right[:-1] + bytes([right[-1] ^ 1])
    with pytest.raises(ValueError, match=r'has the sha256 .* and the official val2017.zip .*damaged or another file'):
        run(toy_set(server.address), tmp_path)
    assert not (tmp_path / 'archives/val2017.zip').exists() and not (tmp_path / 'coco/val2017').exists()


def test_one_right_hash_of_two_is_enough_and_none_is_not(archives: Path, tmp_path: Path) -> None:
    data = toy_set()
    for digests, fits in ((dict(md5='0' * 32), False), ({**data.archives[1].digests, 'md5': '0' * 32}, True)):
        archive = dataclasses.replace(data.archives[1], digests=digests)
        if fits:
            fetch.verify([archives / 'val2017.zip'], archive, None, False)
        else:
            with pytest.raises(ValueError, match='has the md5'):
                fetch.verify([archives / 'val2017.zip'], archive, None, False)


def test_a_disk_too_small_is_said_before_anything_is_asked_for(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, 'disk_usage', lambda folder: SimpleNamespace(free=5000))
    with pytest.raises(ValueError, match=r'has 0\.0 GB left, and .* GB are to be written; free space, or .*--root'):
        run(toy_set(server.address), tmp_path)
    assert server.asked == []


# --- from archives --------------------------------------------------------------------------------------------


def test_archives_are_taken_from_where_they_lie_and_not_copied(archives: Path, tmp_path: Path) -> None:
    run(toy_set(), tmp_path / 'data', source=archives)
    assert there(tmp_path / 'data') == {f'coco/{name}': content for name, content in ALL.items()}
    assert there(archives) == CONTENTS


@pytest.mark.parametrize('names', [['.001', '.002', '.003'], ['.partaa', '.partab', '.partac'], ['.0', '.1', '.2']])
def test_archives_in_parts_are_read_as_one(names: list[str], archives: Path, tmp_path: Path) -> None:
    content = CONTENTS['train2017.zip']
    (archives / 'train2017.zip').unlink()
    for place, name in enumerate(names):
        (archives / f'train2017.zip{name}').write_bytes(content[place * 300:(place + 1) * 300 if place < 2 else None])
    run(toy_set(), tmp_path / 'data', source=archives)
    assert there(tmp_path / 'data/coco') == ALL


def test_a_missing_part_is_named(archives: Path, tmp_path: Path) -> None:
    (archives / 'train2017.zip').rename(archives / 'train2017.zip.003')
    (archives / 'train2017.zip.001').touch()
    with pytest.raises(ValueError, match=r'part 2 of train2017.zip is missing in '):
        run(toy_set(), tmp_path / 'data', source=archives)


def test_a_missing_archive_is_named_before_any_is_unpacked(archives: Path, tmp_path: Path) -> None:
    (archives / 'train2017.zip').unlink()
    with pytest.raises(ValueError, match=r'train2017.zip is not there, nor parts of it; put it .*or leave --from'):
        run(toy_set(), tmp_path / 'data', source=archives)
    assert there(tmp_path / 'data') == {}


def test_an_unpacked_folder_in_place_of_archives_is_sent_to_link(copy: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match='lies there unpacked: use --link'):
        run(toy_set(), tmp_path / 'data', source=copy)


def test_a_cut_archive_is_refused_by_its_size(archives: Path, tmp_path: Path) -> None:
    (archives / 'train2017.zip').write_bytes(CONTENTS['train2017.zip'][:-10])
    with pytest.raises(ValueError, match='it is cut off or another file; get it again'):
        run(toy_set(), tmp_path / 'data', source=archives)


def test_an_archive_with_fewer_pictures_is_refused(tmp_path: Path) -> None:
    contents = {**CONTENTS, 'val2017.zip': zipped(dict(list(VAL.items())[:2]))}
    with pytest.raises(ValueError, match='holds 2 files for val2017/, and the official archive 3'):
        run(toy_set(contents=contents), tmp_path / 'data', source=write_all(tmp_path / 'a', contents))


# --- killed, full, in the way ---------------------------------------------------------------------------------


@pytest.mark.parametrize('at', [1, 4, 7])
def test_a_run_that_was_killed_at_a_file_is_completed_by_the_next(
    at: int, archives: Path, tmp_path: Path, run_python: Callable[[str], subprocess.CompletedProcess]
) -> None:
    code = f"""
import os, signal, sys
from pathlib import Path
sys.path.insert(0, {str(ROOT / 'tests')!r})
from backbones.checkpoints import faults
from backbones.data_prepare.place import prepare
from data_prepare.toy_sets import toy_set
met = []
faults.listen(lambda *where: met.append(where) or (len(met) > {at} and os.kill(os.getpid(), signal.SIGKILL)))
prepare(toy_set(), Path({str(tmp_path / 'data')!r}), source=Path({str(archives)!r}), progress=False)
"""
    assert run_python(code).returncode == -signal.SIGKILL
    before = there(tmp_path / 'data/coco')
    assert all(ALL[name] == content for name, content in before.items() if not Path(name).name.startswith('.'))
    assert len(before) >= at  # and the next run keeps them
    run(toy_set(), tmp_path / 'data', source=archives)
    assert there(tmp_path / 'data/coco') == ALL


def test_what_a_kill_left_of_a_file_is_written_anew(archives: Path, tmp_path: Path) -> None:
    name = next(iter(TRAIN))
    part = f'train2017/.{Path(name).name}.partial'
    write_all(tmp_path / 'coco', {part: b'half', **dict.fromkeys(list(VAL)[:1], b'')})  # and after a power cut
    run(toy_set(), tmp_path, source=archives)
    assert there(tmp_path / 'coco') == ALL


def test_a_full_disk_is_one_sentence_and_keeps_what_is_unpacked(
    archives: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(place: str, part: float, step: str) -> None:
        if part > 0.5:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    stop = faults.listen(fail)
    try:
        with pytest.raises(ValueError, match=r'is full; free .* GB there and start again: what is unpacked is kept'):
            run(toy_set(), tmp_path, source=archives)
    finally:
        stop()
    assert there(tmp_path / 'coco')
    run(toy_set(), tmp_path, source=archives)
    assert there(tmp_path / 'coco') == ALL


def test_a_full_disk_within_a_file_leaves_no_part_of_it(
    archives: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(unpack.os, 'replace', full)
    with pytest.raises((ValueError, OSError)):
        unpack.unpack([archives / 'val2017.zip'], toy_set().archives[1], tmp_path, {'val2017': 3}, False)
    assert not any(path.suffix == '.jpg' for path in (tmp_path / 'val2017').iterdir())


def test_a_file_of_other_content_in_the_way_is_not_overwritten(archives: Path, tmp_path: Path) -> None:
    name = next(iter(TRAIN))
    write_all(tmp_path / 'coco', {name: b'mine'})
    with pytest.raises(ValueError, match='nothing is overwritten: move it away'):
        run(toy_set(), tmp_path, source=archives)
    assert (tmp_path / 'coco' / name).read_bytes() == b'mine'


def test_more_pictures_than_belong_there_are_reported(copy: Path, tmp_path: Path) -> None:
    (copy / 'val2017/mine.jpg').write_bytes(b'x')
    with pytest.raises(ValueError, match=r'holds 4 files \*\.jpg, and 3 belong there; take the others away'):
        run(toy_set(), copy.parent)


def test_a_verified_archive_is_not_verified_again_when_the_run_is_repeated(
    archives: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes, read = tmp_path / 'notes.json', []
    monkeypatch.setattr(fetch, 'open_archive', lambda paths: read.append(paths) or paths[0].open('rb'))
    for _ in range(2):
        fetch.verify([archives / 'val2017.zip'], toy_set().archives[1], notes, False)
    assert len(read) == 1
    os.utime(archives / 'val2017.zip', ns=(1, 1))  # it may be another one now
    fetch.verify([archives / 'val2017.zip'], toy_set().archives[1], notes, False)
    assert len(read) == 2


# --- a copy ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('named', ['coco', '.'])
def test_a_copy_is_linked_after_it_was_counted(named: str, copy: Path, tmp_path: Path) -> None:
    run(toy_set(), tmp_path / 'data', link=copy.parent / named)
    assert (tmp_path / 'data/coco/train2017').resolve() == copy / 'train2017'
    assert (tmp_path / 'data/coco/annotations').is_symlink()
    assert run(toy_set(), tmp_path / 'data')[0].startswith('nothing to do')


def test_a_copy_that_is_not_whole_is_not_linked(copy: Path, tmp_path: Path) -> None:
    next((copy / 'val2017').iterdir()).unlink()
    with pytest.raises(ValueError, match=r'lacks val2017 \(2 of 3 files\)'):
        run(toy_set(), tmp_path / 'data', link=copy)
    assert not (tmp_path / 'data').exists()


def test_a_link_takes_no_place_where_something_is(copy: Path, tmp_path: Path) -> None:
    mine = write_all(tmp_path / 'data/coco', {'val2017/000000000001.jpg': b'mine'})
    with pytest.raises(ValueError, match='is there already'):
        run(toy_set(), tmp_path / 'data', link=copy)
    assert there(mine) == {'val2017/000000000001.jpg': b'mine'}


def test_nothing_is_unpacked_through_a_link(copy: Path, archives: Path, tmp_path: Path) -> None:
    next((copy / 'val2017').iterdir()).unlink()
    (tmp_path / 'data').mkdir()
    (tmp_path / 'data/coco').mkdir()
    (tmp_path / 'data/coco/val2017').symlink_to(copy / 'val2017')
    with pytest.raises(ValueError, match=r'is a link to .*complete it there, or remove the link'):
        run(toy_set(), tmp_path / 'data', source=archives)


def test_a_link_that_leads_nowhere_is_named(tmp_path: Path) -> None:
    (tmp_path / 'coco').symlink_to(tmp_path / 'gone')
    with pytest.raises(ValueError, match=r'is a link to .*gone, which is not there'):
        run(toy_set(), tmp_path)


# --- the door -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('arguments', 'says'),
    [
        ([], 'name one: coco2017, ade20k, or --custom'),
        (['coco2017', '--custom', 'x', '--out', 'y'], 'name one'),
        (['coco2017', '--out', 'y'], '--out has no meaning with coco2017'),
        (['--custom', 'x', '--out', 'y', '--link', 'z'], '--link has no meaning with --custom'),
        (['--custom', 'x'], '--custom needs --out'),
        (['ade20k', '--from', 'x', '--link', 'y'], 'give one of them'),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    arguments: list[str], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, 'argv', ['prepare_data.py', *arguments])
    with pytest.raises(ValueError, match=says):
        runpy.run_path(str(ROOT / 'tools/prepare_data.py'))['parse_args']()


def test_the_tool_ends_in_one_sentence_and_code_2(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / 'tools/prepare_data.py'), 'ade20k', '--root', 'data', '--from', 'gone']
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=tmp_path, env={**os.environ, 'PYTHONPATH': str(ROOT)}, check=False)
    assert done.returncode == 2 and 'Traceback' not in done.stderr
    assert 'error: --from gone is no folder; name the one where ADEChallengeData2016.zip lies' in done.stderr


def test_the_message_of_a_full_disk_in_a_download_names_the_option(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match='set --root to a folder on another disk'):
        download._check_room(tmp_path, 1 << 60, 0, '--root')
