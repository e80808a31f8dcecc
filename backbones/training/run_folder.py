"""The folder that a run saves to: where it is, what is in it, and whether a run may begin there."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path
from string import Formatter
from typing import Any

import mmengine
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner

from backbones.checkpoints.export import plain_meta
from backbones.checkpoints.rotation import clean_up, keep_foreign, list_checkpoints, unusable
from backbones.checkpoints.stored_config import packed

NUMBER = r'[\w ,.+-]*\d[\w ,.+-]*'  # as format specifications write one


def checkpoint_folder(work_dir: str | Path, out_dir: str | Path | None = None) -> Path:
    """Where the checkpoints of a run are: its work folder, or a folder of that name in `out_dir`."""
    return Path(out_dir) / Path(work_dir).name if out_dir else Path(work_dir)


def held_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints of a folder, the newest first; an empty list if nothing there bears the name of one.

    Raises:
        ValueError: there are some, and none can be used.
    """
    saved = list_checkpoints(folder) if folder.is_dir() else []
    if not saved and folder.is_dir() and (complaints := unusable(folder)):
        raise ValueError(
            f'{folder} holds a run of which no checkpoint can be used: {"; ".join(complaints)}; mend them, or choose '
            'another work folder'
        )
    return saved


def refuse_second_run(folder: Path, go_on: str) -> None:
    """Refuse to begin a run where one has saved already; rotation would delete its checkpoints.

    Args:
        folder: of the checkpoints.
        go_on: how a user goes on with that run.

    Raises:
        ValueError: a checkpoint is there.
    """
    if saved := held_checkpoints(folder):
        raise ValueError(
            f'{folder} already holds a run ({saved[0].name}); go on with it by {go_on}, or choose another work folder '
            '(--work-dir)'
        )


def open_folder(folder: Path, begins: bool) -> list[str]:
    """Make the folder, and clean up after dead runs; returns lines for the log.

    Args:
        folder: of the checkpoints.
        begins: whether the run is a new one.

    Raises:
        ValueError: it cannot be written to, or holds another run.
    """
    try:
        if begins:
            refuse_second_run(folder, 'resume=True or --resume')
        folder.mkdir(parents=True, exist_ok=True)
        removed = clean_up(folder)  # makes a file there, too
        lines = keep_foreign(folder, begins)
    except OSError as error:
        raise ValueError(
            f'checkpoints cannot be written to {folder} ({error.strerror}); correct its permissions, or choose another '
            'work folder (--work-dir)'
        ) from error
    return [f'deleted what dead processes left unfinished: {", ".join(removed)}', *lines] if removed else lines


def weight_files(folder: Path, template: str | None = None) -> list[Path]:
    """What an earlier run, also one of MMEngine's own, left of weights; the newest last.

    Args:
        folder: where to look.
        template: `filename_tmpl` of the run that is to begin.
    """
    found = {*folder.glob('epoch_*.pth'), *folder.glob('iter_*.pth')}
    with suppress(ValueError):  # the hook refuses it
        parts = list(Formatter().parse(template)) if isinstance(template, str) else []
        wanted = ''.join(re.escape(text) + ('' if field is None else NUMBER) for text, field, *_ in parts)
        if folder.is_dir():
            found |= {path for path in folder.iterdir() if re.fullmatch(wanted, path.name) and path.is_file()}
    return sorted(found, key=lambda path: path.stat().st_mtime)


def export_meta(runner: Runner, epoch: int, iteration: int) -> dict[str, Any]:
    """What a checkpoint and an exported file say about themselves.

    The config is there as data, not as text under 'cfg', which readers of such files would execute.
    """
    dataset = runner.train_loop.dataloader.dataset
    model = runner.model.module if is_model_wrapper(runner.model) else runner.model
    return dict(
        epoch=epoch,
        iter=iteration,
        seed=runner.seed,
        experiment_name=runner.experiment_name,
        model=type(model).__name__,
        mmengine_version=mmengine.__version__,
        dataset_meta=plain_meta(getattr(dataset, 'metainfo', None) or {}),
        **packed(runner.cfg.to_dict()),
    )
