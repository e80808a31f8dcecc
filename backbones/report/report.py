"""`tools/report.py WORK_DIR [--compare OTHER]`: everything about a run on one page that needs no server."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from backbones.data.files import shown
from backbones.evaluation.compare_files import ONE_TRAINING
from backbones.files import check_writable, keep_older, write_bytes

from .advice import cut_short, placed, with_advice
from .comparison import compare_runs, compared_headlines, comparison_section, same_folder
from .config_diff import config_section
from .curves import Logs, read_logs
from .data_findings import data_section
from .facts import environment_section, headlines, history, summary
from .page import GENERATOR, render
from .parts import Headline, Note, Page, Part, Section
from .run_folder import Run, read_run, tell_apart
from .samples import sample_parts
from .training import Trained, training_section
from .video import frames_of_video

NAME = 'report.html'
BUDGET = 14 << 20  # bytes of JPEGs; with base64 and the plotting library a page stays below 30 MB


def write_report(work_dir: str | Path, compare: str | Path | None = None, out: str | Path | None = None) -> Path:
    """Write the page of a run.

    Args:
        work_dir: work folder of a training or a test.
        compare: another one, which the page shows beside it.
        out: the file to write; default `report.html` in `work_dir`. An older page that this tool wrote is replaced, any
            other file is kept as NAME.1.html, ...

    Returns:
        The file.

    Raises:
        ValueError: a folder is not there or holds no run, or the file cannot be written.
    """
    return _write(work_dir, compare, out)[0]


def print_report(work_dir: str, compare: str | None = None, out: str | None = None) -> None:
    """Write the page and print what its reader should know first, its path and its size."""
    file, page = _write(work_dir, compare, out)
    for note in said(page):
        print(f'{note.severity}: {_flat(note.text)}')
        if note.command:
            print(f'  {_flat(note.command)}')
    print(f'{shown(file)}  {file.stat().st_size / 1e6:.1f} MB')


def said(page: Page) -> list[Note]:
    """The sentences of the summary: what is missing, damaged or to be minded."""
    return [part for part in page.summary if isinstance(part, Note)]


def _flat(text: str) -> str:
    return shown(' '.join(text.split()))


def _write(work_dir: str | Path, compare: str | Path | None, out: str | Path | None) -> tuple[Path, Page]:
    file = Path(out) if out is not None else Path(work_dir) / NAME
    run = read_run(work_dir)
    other = read_run(compare) if compare is not None else None
    if other is not None and same_folder(run.folder, other.folder):
        raise ValueError(f'--compare {shown(compare)} is {shown(work_dir)} itself; name another work folder')
    if other is not None:
        tell_apart(run, other)
    if file.is_dir():
        raise ValueError(f'--out {shown(file)} is a folder; name a file in it, such as {shown(file / NAME)}')
    check_writable(str(file), '--out')
    with _bar() as progress:
        page = make_page(run, other, progress)
        progress('page')
        content = render(page).encode('utf-8', 'replace')
    if not _is_ours(file):
        keep_older(file)
    write_bytes(file, content)
    return file, page


@contextlib.contextmanager
def _bar() -> Iterator[Callable[..., None]]:
    """A bar on a terminal for what takes longer than two seconds; call what it gives with what begins, or a count."""
    from tqdm import tqdm

    with tqdm(desc='report', total=1, delay=2, leave=False, disable=None) as bar:

        def progress(text: str, done: int | None = None, number: int | None = None) -> None:
            bar.set_description(f'report: {text}', refresh=False)
            bar.total = number or 1
            bar.n = done or 0
            bar.refresh() if done is None else bar.update(0)

        yield progress


def _is_ours(file: Path) -> bool:
    """Whether a file is a page that this tool wrote."""
    try:
        with file.open('rb') as content:
            return GENERATOR.encode() in content.read(2000)
    except OSError:
        return False


def make_page(run: Run, other: Run | None = None, progress: Callable[..., None] = lambda *_: None) -> Page:
    """The page of a run as data.

    Args:
        run: as `read_run` gives it.
        other: to be shown beside it.
        progress: is called with what begins, or with it, done and number.
    """
    progress('logs')
    logs = read_logs(run)
    numbers: Sequence[Headline] = headlines(run)
    below = below_headlines(run, logs)
    sections: list[Section] = []
    runs = [Trained(run, logs)]
    if other is not None:
        progress('comparison')
        found, refused = compare_runs(run, other)
        numbers = compared_headlines(run, other, found)
        sections.append(comparison_section(run, other, found, refused))
        told = refused or (Note(ONE_TRAINING) if found else None)  # directly under the verdicts
        below = [*([told] if told else []), *below]
        runs = [Trained(run, logs, run.name), Trained(other, read_logs(other), other.name)]
    sections.append(training_section(runs))
    detailed, advice = with_advice([*_evaluation(run), *_gallery(run, progress)], run, logs)
    sections += detailed
    below = placed(below, advice)
    progress('config')
    sections.append(config_section(run, other))
    progress('data')
    sections += [data_section(run), environment_section(run)]
    return Page(run.name, _subtitle(run, logs), numbers, [one for one in sections if one.parts], below)


def below_headlines(run: Run, logs: Logs) -> list[Part]:
    """What the summary says below its numbers."""
    short = cut_short(run, logs)
    below = [*([short] if short else []), *summary(run, logs)]
    if run.details is not None and (note := frames_of_video(run.details)):
        below.append(note)
    return below + history(run)


def _evaluation(run: Run) -> Sequence[Section]:
    if run.details is None:
        return []
    from .charts import evaluation_sections

    return _guarded('evaluation', 'Evaluation', lambda: evaluation_sections(run.details))


def _gallery(run: Run, progress: Callable[..., None]) -> Sequence[Section]:
    if run.details is None:
        return [Section('images', 'Images', sample_parts(run, BUDGET))]
    from .gallery import gallery_parts

    progress('pictures')
    return _guarded('images', 'Images', lambda: [Section('images', 'Images', gallery_parts(
        run.details, run.evaluation, BUDGET, lambda done, number: progress('pictures', done, number)))])


def _guarded(id_: str, title: str, make: Callable[[], Sequence[Section]]) -> Sequence[Section]:
    """Chapters made of `details.json`; one that lacks what it should have is a sentence, and the page goes on."""
    try:
        return make()
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, ArithmeticError, OSError) as error:
        what = f'{type(error).__name__}: {" ".join(str(error).split())[:200]}'
        parts: list[Part] = [Note(f'This chapter cannot be drawn, as evaluation/details.json is not as it was written '
                                  f'({what}).', 'error', 'python tools/test.py CONFIG CHECKPOINT --details')]
        return [Section(id_, title, parts)]


def _subtitle(run: Run, logs: Logs) -> str:
    """Model, data, date."""
    config: dict[str, Any] = run.config or {}
    model = config.get('model') if isinstance(config.get('model'), dict) else {}
    backbone = model.get('backbone') if isinstance(model.get('backbone'), dict) else {}
    words = [str(model.get('type', '')), str(backbone.get('type', '')), run.config_name]
    words += [str((run.details or {}).get('data', {}).get('annotation_file', '') or config.get('data_root') or '')]
    written = str((run.details or {}).get('written', '') or run.record.get('time', ''))[:10]
    words += [f'evaluated {written}' if run.details else written]
    words += [f'report of {datetime.now(timezone.utc):%Y-%m-%d %H:%M} UTC']
    return ' · '.join(word for word in words if word)
