"""What a prediction is asked for: image files, folders, patterns, and the frames of videos."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from backbones.data.files import IMAGE_SUFFIXES, shown

VIDEO_SUFFIXES = ('.mp4', '.avi', '.mov', '.mkv', '.webm', '.m4v', '.mpg', '.mpeg', '.wmv')
SUFFIXES = (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES)


@dataclass(frozen=True)
class Picture:
    """One image, or one frame of a video.

    Attributes:
        name: without suffix, unique; `clip/000012` for a frame.
        file: the image or the video.
        path: where its pixels can be read; those of a frame are a temporary file. None: it needs no reading.
        frame: number in the video, from 0.
        error: why it cannot be predicted.
    """

    name: str
    file: Path
    path: Path | None = None
    frame: int | None = None
    error: str | None = None

    @property
    def title(self) -> str:
        """The file, with the number of the frame."""
        return str(self.file) if self.frame is None else f'{self.file}#{self.frame}'

    def forget(self) -> None:
        """Delete the temporary file of a frame."""
        if self.frame is not None and self.path is not None:
            self.path.unlink(missing_ok=True)


def is_video(file: Path) -> bool:
    """Whether a file is a video, by its name."""
    return file.suffix.lower() in VIDEO_SUFFIXES


def find_images(images: Iterable[str | Path], known: Mapping[str, str] | None = None) -> dict[str, Path]:
    """List images and videos, and those of folders and patterns, as {name without suffix: file}, names made unique.

    Args:
        images: files, folders (with all that is in them), patterns such as `photos/*.jpg` or `**/*.png`.
        known: names that files have already: {file: name}.

    Raises:
        ValueError: a path does not exist, a pattern matches nothing, or there is no image at all.
    """
    images, known = list(images), known or {}
    found = [file for item in images for file in _files(str(item))]
    if not found:
        raise ValueError(
            f'no image in {[str(item) for item in images]}; images end in {", ".join(IMAGE_SUFFIXES)}, videos in '
            f'{", ".join(VIDEO_SUFFIXES)}')
    named: dict[str, Path] = {}
    taken = set(known.values())
    for file in dict.fromkeys(found):
        name, number = known.get(str(file)), 2
        if name is None:
            name = file.stem
            while name in taken:
                name, number = f'{file.stem}-{number}', number + 1
        taken.add(name)
        named[name] = file
    return named


def _files(item: str) -> list[Path]:
    """The files that one argument stands for."""
    path = Path(item)
    if path.is_dir():
        return sorted(p for p in path.rglob('*') if p.suffix.lower() in SUFFIXES)
    if path.is_file():
        return [path]
    if not glob.has_magic(item):
        raise ValueError(f'image {item!r} does not exist')
    matches = sorted(glob.glob(item, recursive=True))
    if not matches:
        raise ValueError(f'no file matches {item!r}; put the pattern in quotes and check the folder')
    return [
        file for match in map(Path, matches)
        for file in (_files(str(match)) if match.is_dir() else [match] if match.suffix.lower() in SUFFIXES else [])]


def count_pictures(files: Iterable[Path], every: int) -> int:
    """How many pictures that will be; of a video its header's word is taken."""
    total = 0
    for file in files:
        frames = 1
        if is_video(file):
            video = cv2.VideoCapture(str(file))
            frames = max(0, int(video.get(cv2.CAP_PROP_FRAME_COUNT)))
            video.release()
            frames = -(-frames // every)
        total += frames
    return total


def pictures(
    files: Mapping[str, Path], every: int, done: Callable[[str], bool], folder: Path
) -> Iterator[Picture]:
    """Yield each picture; `forget()` it when its pixels are no longer needed.

    Args:
        files: by name.
        every: of a video, each `every`-th frame, from frame 0.
        done: tells by the title of a picture whether it needs no reading.
        folder: for the frames.
    """
    for name, file in files.items():
        if is_video(file) and file.is_file():
            yield from _frames(name, file, every, done, folder)
        else:
            yield Picture(name, file, None if done(str(file)) else file)


def _frames(name: str, file: Path, every: int, done: Callable[[str], bool], folder: Path) -> Iterator[Picture]:
    """The frames of a video as lossless files, so that they go through the same pipeline as images."""
    video = cv2.VideoCapture(str(file))
    number = 0
    try:
        while video.isOpened() and video.grab():
            if number % every == 0:
                yield _frame(video, f'{name}/{number:06d}', file, number, done, folder)
            number += 1
    finally:
        video.release()
    if number == 0:
        yield Picture(name, file, error=(
            f'the video {shown(file)} cannot be decoded ({os.path.getsize(file)} bytes): it is damaged, empty or of a '
            'kind that OpenCV does not know; convert it, as by `ffmpeg -i VIDEO out.mp4`'))


def _frame(
    video: cv2.VideoCapture, name: str, file: Path, number: int, done: Callable[[str], bool], folder: Path
) -> Picture:
    picture = Picture(name, file, frame=number)
    if done(picture.title):
        return picture
    whole, image = video.retrieve()
    path = folder / f'{name.replace("/", "-")}.bmp'
    if not whole or not isinstance(image, np.ndarray) or not cv2.imwrite(str(path), image):
        return Picture(name, file, frame=number, error=f'frame {number} of the video {shown(file)} cannot be decoded')
    return Picture(name, file, path, number)
