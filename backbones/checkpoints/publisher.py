"""What follows a checkpoint: `last`, the best ones, exported files, and the end of old ones."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from pathlib import Path

from backbones.checkpoints.export import export_checkpoint
from backbones.checkpoints.rotation import Best, newest_valid, read_best, rotate, write_best, write_last
from backbones.checkpoints.store import NAME, Prepared, write_checkpoint


class Publisher:
    """Writes the checkpoints of one run to one folder; each step only after the one before is on the disk.

    Args:
        folder: where to.
        keep: how many to keep besides the best ones; 0 or less keeps all.
        export: 'best', 'last', 'all': of which to write the weights as `.pth`.
        publishes: put the sha256 into the names of exported files when the run ends.
        templates: name of an exported file by unit ('iter', 'epoch'); default `iter_{}.pth`, `epoch_{}.pth`.
    """

    def __init__(
        self, folder: Path, keep: int, export: Collection[str], publishes: bool, templates: Mapping[str, str]
    ) -> None:
        self._folder, self._keep, self._export, self._publishes = folder, keep, export, publishes
        self._templates = {'iter': 'iter_{}.pth', 'epoch': 'epoch_{}.pth', **templates}
        self._written: tuple[int, str] | None = None  # iteration and name of the newest
        self._best: dict[str, Best] = {}

    def recall_best(self) -> list[str]:
        """Go on from `best.json` of the folder; returns what is wrong with it."""
        try:
            best = read_best(self._folder)
        except (ValueError, OSError) as error:
            return [str(error)]
        lost = sorted(key for key, entry in best.items() if not (self._folder / entry.checkpoint).is_dir())
        self._best = {key: entry for key, entry in best.items() if key not in lost}
        return [f'the best checkpoint by {key} is gone; the next validation gives a new one' for key in lost]

    def scores(self) -> dict[str, float]:
        """The best scores so far, of checkpoints that are on the disk."""
        return {key: best.score for key, best in self._best.items()}

    def written(self, iteration: int) -> Path | None:
        """The checkpoint of an iteration, if it is the newest."""
        return self._folder / self._written[1] if self._written and self._written[0] == iteration else None

    def publish(self, name: str, iteration: int, prepared: Prepared) -> str:
        """Write, verify, name and rotate; returns a line for the log.

        Raises:
            OSError, ValueError: nothing older was touched.
        """
        start = time.monotonic()
        path = write_checkpoint(self._folder, name, prepared, iteration=iteration)
        self._written = (iteration, path.name)
        seconds = time.monotonic() - start
        write_last(self._folder, path.name)
        if 'all' in self._export:
            export_checkpoint(path, self._file(path.name))
        removed = self._rotate(path.name)
        deleted = f'; deleted {", ".join(removed)}' if removed else ''
        return f'{path.name} is saved and verified ({prepared.size / 1e6:.1f} MB in {seconds:.1f} s){deleted}'

    def mark_best(self, better: Mapping[str, float], iteration: int) -> str:
        """Name the checkpoint of `iteration`, which was verified, as the best one; returns a line for the log.

        Args:
            better: score by metric.
            iteration: the one that was measured.

        Raises:
            OSError, ValueError: the best ones are what they were.
        """
        path = self.written(iteration)
        if path is None:
            raise OSError(None, f'there is no checkpoint of iteration {iteration} to be the best one')
        before = self._best
        if 'best' in self._export:
            for key in better:
                export_checkpoint(path, self._file(path.name, key))
        best = {**before, **{key: Best(score, path.name) for key, score in better.items()}}
        write_best(self._folder, best)
        self._best = best
        for key in better:
            if key in before and before[key].checkpoint != path.name:
                self._file(before[key].checkpoint, key).unlink(missing_ok=True)
        self._rotate(path.name)
        return ', '.join(f'{path.name} is the best by {key} ({score:.4f})' for key, score in better.items())

    def export_last(self) -> str:
        """Export the newest checkpoint, and give published files their names; returns a line for the log."""
        newest = self._folder / self._written[1] if self._written else newest_valid(self._folder).path
        wanted = {self._file(newest.name): newest} if newest else {}
        if self._publishes:
            wanted |= {self._file(best.checkpoint, key): self._folder / best.checkpoint
                       for key, best in self._best.items()}
        files = []
        for file, path in wanted.items():
            digest = export_checkpoint(path, file)
            files.append(file)
            if self._publishes:  # as published models are called
                files[-1] = file.rename(file.with_name(f'{file.stem}-{digest[:8]}{file.suffix}'))
        return f'weights are exported as {", ".join(file.name for file in files)}'

    def _rotate(self, verified: str) -> list[str]:
        removed = rotate(self._folder, self._keep, verified, {best.checkpoint for best in self._best.values()})
        for name in removed if 'all' in self._export else ():
            self._file(name).unlink(missing_ok=True)
        return removed

    def _file(self, name: str, metric: str = '') -> Path:
        """Where the checkpoint `name` is exported to: `iter_000120` becomes `iter_120.pth`."""
        match = NAME.fullmatch(name)
        file = self._templates[match['unit']].format(int(match['count']))
        return self._folder / (f'best_{metric}_{file}'.replace('/', '_') if metric else file)
