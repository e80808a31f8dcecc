"""What follows a checkpoint: `last`, the best ones, exported files, and the end of old ones."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backbones.checkpoints.export import export_checkpoint, exported_meta
from backbones.checkpoints.files import said
from backbones.checkpoints.rotation import BEST, LAST, Best, newest_valid, read_best, rotate, write_best, write_last
from backbones.checkpoints.store import NAME, Prepared, write_checkpoint


@dataclass(frozen=True)
class Done:
    """How a job went that lost no checkpoint.

    Attributes:
        line: for the log; '' for none.
        warnings: what came after the checkpoint and did not succeed.
        saved: whether a checkpoint was written.
    """

    line: str = ''
    warnings: tuple[str, ...] = ()
    saved: bool = False

    def tell(self, logger: logging.Logger) -> None:
        """Log it."""
        if self.line:
            logger.info(self.line)
        for warning in self.warnings:
            logger.warning(warning)


class Publisher:
    """Writes the checkpoints of one run to one folder; each step only after the one before is on the disk.

    A failure after the checkpoint itself (of `last`, an exported file, the deletion of old ones) is a warning: the
    state is saved.

    Args:
        folder: where to.
        keep: how many to keep besides the best ones; 0 or less keeps all.
        export: 'best', 'last', 'all': of which to write the weights as `.pth`.
        publishes: put the sha256 into the names of exported files when the run ends.
        templates: name of an exported file by unit ('iter', 'epoch'); default `iter_{}.pth`, `epoch_{}.pth`.
        run: what the `meta` of the run's checkpoints says under 'run'. An exported file that says something else, or
            nothing, is neither replaced nor deleted.
    """

    def __init__(
        self, folder: Path, keep: int, export: Collection[str], publishes: bool, templates: Mapping[str, str],
        run: str,
    ) -> None:
        self._folder, self._keep, self._export, self._publishes = folder, keep, export, publishes
        self._templates = {'iter': 'iter_{}.pth', 'epoch': 'epoch_{}.pth', **templates}
        self._run = run
        self._written: tuple[int, str] | None = None  # iteration and name of the newest
        self._best: dict[str, Best] = {}
        self._best_files: dict[str, Path] = {}  # by metric, the export on the disk

    def recall_best(self) -> list[str]:
        """Go on from `best.json` of the folder; returns what is wrong with it."""
        try:
            best = read_best(self._folder)
        except (ValueError, OSError) as error:
            return [str(error)]
        lost = sorted(key for key, entry in best.items() if not (self._folder / entry.checkpoint).is_dir())
        self._best = {key: entry for key, entry in best.items() if key not in lost}
        self._best_files = {key: file for key, entry in self._best.items()
                            if (file := self._file(entry.checkpoint, key)).is_file()}
        return [f'the best checkpoint by {key} is gone; the next validation gives a new one' for key in lost]

    def recall_written(self, name: str, iteration: int) -> None:
        """Go on from a checkpoint of the folder that is whole: nobody needs to write it again."""
        self._written = (iteration, name)

    def scores(self) -> dict[str, float]:
        """The best scores so far, of checkpoints that are on the disk."""
        return {key: best.score for key, best in self._best.items()}

    def written(self, iteration: int) -> Path | None:
        """The checkpoint of an iteration, if it is the newest."""
        return self._folder / self._written[1] if self._written and self._written[0] == iteration else None

    def publish(self, name: str, iteration: int, prepared: Prepared) -> Done:
        """Write, verify, name and rotate.

        Raises:
            OSError, ValueError: the checkpoint was not written; nothing older was touched.
        """
        start = time.monotonic()
        path = write_checkpoint(self._folder, name, prepared, iteration=iteration)
        self._written = (iteration, path.name)
        seconds = time.monotonic() - start
        warnings: list[str] = []
        _attempt(lambda: write_last(self._folder, path.name), f'{path.name} is saved, but `{LAST}` does not name it',
                 warnings)
        if 'all' in self._export:
            self._export_to(self._file(path.name), path, warnings)
        removed = self._rotate(path.name, warnings)
        deleted = f'; deleted {", ".join(removed)}' if removed else ''
        line = f'{path.name} is saved and verified ({prepared.size / 1e6:.1f} MB in {seconds:.1f} s){deleted}'
        return Done(line, tuple(warnings), saved=True)

    def mark_best(self, better: Mapping[str, float], iteration: int) -> Done:
        """Name the checkpoint of `iteration`, which was verified, as the best one; if that fails, none is replaced.

        Args:
            better: score by metric.
            iteration: the one that was measured.
        """
        path = self.written(iteration)
        if path is None:
            return Done(warnings=(
                f'iteration {iteration} is the best by {", ".join(better)}, but its checkpoint was not saved; the best '
                'one so far stays',))
        warnings: list[str] = []
        files = {key: file for key in better if 'best' in self._export
                 if self._export_to(file := self._file(path.name, key), path, warnings)}
        best = {**self._best, **{key: Best(score, path.name) for key, score in better.items()}}
        text = f'{path.name} is the best by {", ".join(better)}, but {BEST} cannot say so, and the best so far stays'
        if not _attempt(lambda: write_best(self._folder, best), text, warnings):
            for key, file in files.items():
                if self._best_files.get(key) != file:
                    self._delete(file, warnings)
            return Done(warnings=tuple(warnings))
        self._best = best
        for key, file in files.items():
            self._replace_best_file(key, file, warnings)
        self._rotate(path.name, warnings)
        line = ', '.join(f'{path.name} is the best by {key} ({score:.4f})' for key, score in better.items())
        return Done(line, tuple(warnings))

    def export_last(self, wants_last: bool = True) -> Done:
        """Export the newest checkpoint and best ones that could not be, and give published files their names."""
        newest = self._folder / self._written[1] if self._written else newest_valid(self._folder).path
        wanted = {self._file(newest.name): newest} if newest and wants_last else {}
        best = {key: self._file(entry.checkpoint, key) for key, entry in self._best.items()}
        late = {key: file for key, file in best.items() if 'best' in self._export and self._best_files.get(key) != file}
        for key in best if self._publishes else late:
            wanted[best[key]] = self._folder / self._best[key].checkpoint
        names, warnings = [], []
        for file, path in wanted.items():
            digest = self._export_to(file, path, warnings)
            if digest is None:
                continue
            for key in late:
                if late[key] == file:
                    self._replace_best_file(key, file, warnings)
            published = file.with_name(f'{file.stem}-{digest[:8]}{file.suffix}')  # as published models are called
            renamed = self._publishes and _attempt(
                lambda file=file, to=published: os.replace(file, to), f'{file.name} keeps its name', warnings)
            names.append(published.name if renamed else file.name)
        return Done(f'weights are exported as {", ".join(names)}' if names else '', tuple(warnings))

    def _export_to(self, file: Path, path: Path, warnings: list[str]) -> str | None:
        """Write the weights of the checkpoint `path`; returns the sha256, or None if that failed."""
        digests: list[str] = []

        def export() -> None:
            if os.path.lexists(file) and not self._is_ours(file):
                raise ValueError(
                    f'{file} is there already and is not of this run; move it away, or choose another filename_tmpl')
            digests.append(export_checkpoint(path, file))

        _attempt(export, f'{path.name} is saved, but its weights are not exported as {file.name}', warnings)
        return digests[0] if digests else None

    def _is_ours(self, file: Path) -> bool:
        return not file.is_symlink() and exported_meta(file).get('run') == self._run

    def _delete(self, file: Path, warnings: list[str]) -> None:
        """Delete an exported file, if it is there and ours."""
        if self._is_ours(file):
            _attempt(file.unlink, f'{file.name} cannot be deleted', warnings)

    def _replace_best_file(self, key: str, file: Path, warnings: list[str]) -> None:
        before = self._best_files.get(key, file)
        self._best_files[key] = file
        if before != file:
            self._delete(before, warnings)

    def _rotate(self, verified: str, warnings: list[str]) -> list[str]:
        removed: list[str] = []
        protected = {best.checkpoint for best in self._best.values()}
        _attempt(lambda: removed.extend(rotate(self._folder, self._keep, verified, protected)),
                 f'{verified} is saved, but older checkpoints could not all be deleted', warnings)
        for name in removed if 'all' in self._export else ():
            self._delete(self._file(name), warnings)
        return removed

    def _file(self, name: str, metric: str = '') -> Path:
        """Where the checkpoint `name` is exported to: `iter_000120` becomes `iter_120.pth`."""
        match = NAME.fullmatch(name)
        file = self._templates[match['unit']].format(int(match['count']))
        return self._folder / (f'best_{metric}_{file}'.replace('/', '_') if metric else file)


def _attempt(job: Callable[[], Any], text: str, warnings: list[str]) -> bool:
    """Do what follows a checkpoint; returns whether it succeeded, and adds what went wrong to `warnings`."""
    try:
        job()
    except (OSError, ValueError) as error:
        warnings.append(f'{text}: {said(error)}')
        return False
    return True
