"""Of an archive that is damaged or hostile, nothing is written."""

from __future__ import annotations

import dataclasses
import io
import stat
import struct
import zipfile
from pathlib import Path

import pytest
from data_prepare.toy_sets import VAL, toy_set, zipped

from backbones.data_prepare.unpack import unpack

ARCHIVE = toy_set().archives[1]  # val2017.zip


def attempt(tmp_path: Path, content: bytes, **changes: object) -> Path:
    """Unpack an archive into tmp_path/out, which must stay empty where that fails."""
    path = tmp_path / 'val2017.zip'
    path.write_bytes(content)
    out = tmp_path / 'out'
    unpack([path], dataclasses.replace(ARCHIVE, **changes), out, {'val2017': len(VAL)}, progress=False)
    return out


def with_member(info: zipfile.ZipInfo | str, content: bytes = b'x') -> bytes:
    made = io.BytesIO(zipped(VAL))
    with zipfile.ZipFile(made, 'a') as archive:
        archive.writestr(info, content)
    return made.getvalue()


@pytest.mark.parametrize(
    ('name', 'says'),
    [
        ('../val2017/evil.jpg', 'leads out of the folder'),
        ('val2017/../../evil.jpg', 'leads out of the folder'),
        ('/etc/evil.jpg', 'absolute path'),
        ('C:/evil.jpg', 'absolute path'),
        ('val2017\\..\\..\\evil.jpg', 'absolute path, or one of another system'),
        ('val2017/000000000001.jpg', 'is there twice'),
    ],
)
@pytest.mark.filterwarnings('ignore:Duplicate name')
def test_a_member_that_leads_elsewhere_stops_all(name: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f'is not unpacked: its member .* {says}'):
        attempt(tmp_path, with_member(name))
    assert not (tmp_path / 'out').exists() and not (tmp_path / 'evil.jpg').exists()


@pytest.mark.parametrize('kind', [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFBLK])
def test_links_and_devices_stop_all(kind: int, tmp_path: Path) -> None:
    info = zipfile.ZipInfo('val2017/000000000009.jpg')
    info.external_attr = (kind | 0o777) << 16
    with pytest.raises(ValueError, match='is a link or a device'):
        attempt(tmp_path, with_member(info, b'/etc/passwd'))
    assert not (tmp_path / 'out').exists()


def test_a_bomb_is_refused_by_what_it_says_of_itself(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match='makes more than 100,000 bytes'):
        attempt(tmp_path, with_member('val2017/000000000009.jpg', bytes(200_000)))
    assert not (tmp_path / 'out').exists()


def test_a_bomb_that_says_less_than_it_holds_is_stopped(tmp_path: Path) -> None:
    content = bytearray(zipped({**VAL, 'val2017/000000000003.jpg': bytes(90_000)}))
    place = content.rindex(b'PK\x01\x02')  # the last member of the directory
    content[place + 24:place + 28] = struct.pack('<I', 700)  # its size, unpacked
    with pytest.raises(ValueError, match='is no zip archive, or damaged'):
        attempt(tmp_path, bytes(content))
    assert not (tmp_path / 'out/val2017/000000000003.jpg').exists()


def test_an_encrypted_member_stops_all(tmp_path: Path) -> None:
    content = bytearray(zipped(VAL))
    content[content.rindex(b'PK\x01\x02') + 8] |= 1
    with pytest.raises(ValueError, match='is encrypted'):
        attempt(tmp_path, bytes(content))


def test_names_in_other_encodings_are_left_out_unless_they_are_wanted(tmp_path: Path) -> None:
    out = attempt(tmp_path, with_member('__MACOSX/Straße \u202e漢.jpg'))
    assert sorted(path.name for path in (out / 'val2017').iterdir()) == [Path(name).name for name in VAL]
    assert [path.name for path in out.iterdir()] == ['val2017']


def test_digits_of_other_scripts_are_no_name_of_a_picture(tmp_path: Path) -> None:
    out = attempt(tmp_path, with_member('val2017/٠٠٠٠٠٠٠٠٠٠٠٩.jpg'))
    assert len(list((out / 'val2017').iterdir())) == len(VAL)


def test_a_flipped_bit_in_a_picture_is_found(tmp_path: Path) -> None:
    content = bytearray(zipped(VAL, zipfile.ZIP_STORED))
    content[content.index(b'\x02' * 700) + 5] ^= 1
    with pytest.raises(ValueError, match=r'damaged \(Bad CRC-32'):
        attempt(tmp_path, bytes(content))
    assert not (tmp_path / 'out/val2017/000000000002.jpg').exists()
    assert not list((tmp_path / 'out').rglob('.*'))


@pytest.mark.parametrize('content', [b'', b'<html>login</html>', zipped(VAL)[:-30], zipped(VAL)[100:]])
def test_what_is_no_archive_is_named(content: bytes, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r'val2017\.zip (is no zip archive, or damaged|holds)'):
        attempt(tmp_path, content)


def test_random_damage_never_ends_in_a_traceback_or_a_wrong_picture(tmp_path: Path) -> None:
    import random

    chance, clean = random.Random(0), zipped(VAL)
    for trial in range(150):
        content = bytearray(clean)
        for _ in range(3):
            content[chance.randrange(len(content))] = chance.randrange(256)
        folder = tmp_path / str(trial)
        folder.mkdir()
        try:
            attempt(folder, bytes(content))
        except ValueError as error:
            assert 'val2017' in str(error)
        for path in (folder / 'out').rglob('*.jpg'):
            assert path.read_bytes() == VAL[f'val2017/{path.name}']
