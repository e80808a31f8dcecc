"""Training logs: torn, resumed, of another version, long."""

from __future__ import annotations

from pathlib import Path

from report_helpers import make_run, train_line, val_line, write_log

from backbones.report.curves import Curve, Logs, best_of, epoch_at, read_logs, thinned
from backbones.report.parts import Chart, Note, Table
from backbones.report.run_folder import read_run
from backbones.report.training import Trained, images_per_step, training_section


def logs_of(folder: Path) -> Logs:
    """The logs of a work folder."""
    return read_logs(read_run(folder))


def test_training_and_validation_are_told_apart(tmp_path: Path) -> None:
    logs = logs_of(make_run(tmp_path / 'run'))
    assert len(logs.training['loss'].steps) == 30
    assert logs.validation['coco/bbox_mAP'].steps == [10, 20, 30]
    assert 'time' not in logs.validation


def test_what_coco_does_not_define_is_no_curve(tmp_path: Path) -> None:
    assert 'coco/bbox_mAP_l' not in logs_of(make_run(tmp_path / 'run')).validation


def test_a_torn_line_is_left_out_and_counted(tmp_path: Path) -> None:
    write_log(tmp_path, [train_line(1), train_line(2), '{"loss": 0.1, "st'])
    logs = logs_of(tmp_path)
    assert (logs.training['loss'].steps, logs.torn) == ([1, 2], 1)


def test_lines_that_are_no_objects_are_left_out(tmp_path: Path) -> None:
    write_log(tmp_path, ['[1]', 'null', '7', '"a"', train_line(1), '', '\x00'])
    logs = logs_of(tmp_path)
    assert (logs.training['loss'].steps, logs.torn) == ([1], 5)


def test_nan_is_a_gap_and_counted(tmp_path: Path) -> None:
    write_log(tmp_path, [train_line(1), train_line(2, loss=float('nan')), train_line(3, loss=float('inf'))])
    logs = logs_of(tmp_path)
    assert logs.training['loss'].values == [10.0, None, None]
    assert logs.non_finite == dict(loss=2)


def test_texts_and_lists_in_a_line_are_no_numbers(tmp_path: Path) -> None:
    write_log(tmp_path, [train_line(1, loss='a', extra=[1], flag=True)])
    assert not {'loss', 'extra', 'flag'} & logs_of(tmp_path).training.keys()


def test_steps_done_again_after_a_resume_are_those_of_the_newer_log(tmp_path: Path) -> None:
    write_log(tmp_path, [train_line(step, loss=1.0) for step in range(1, 9)], '20260101_000000')
    write_log(tmp_path, [train_line(step, loss=2.0) for step in range(5, 11)], '20260102_000000')
    curve = logs_of(tmp_path).training['loss']
    assert curve.steps == list(range(1, 11))
    assert curve.values == [1.0] * 4 + [2.0] * 6


def test_a_validation_beyond_the_checkpoint_of_a_resume_is_forgotten(tmp_path: Path) -> None:
    write_log(tmp_path, [train_line(1), train_line(2), val_line(2, 0.9)], '20260101_000000')
    write_log(tmp_path, [train_line(2), val_line(2, 0.5)], '20260102_000000')
    assert logs_of(tmp_path).validation['coco/bbox_mAP'].values == [0.5]


def test_a_new_run_in_an_old_folder_takes_the_place_of_the_old_curves(tmp_path: Path) -> None:
    write_log(tmp_path, [train_line(step) for step in range(1, 9)], '20260101_000000')
    write_log(tmp_path, [train_line(1), train_line(2)], '20260102_000000')
    assert logs_of(tmp_path).training['loss'].steps == [1, 2]


def test_a_validation_whose_step_is_an_epoch_lies_where_it_was_done(tmp_path: Path) -> None:
    write_log(tmp_path, [train_line(10), val_line(1, 0.1), train_line(20), val_line(2, 0.2)])
    assert logs_of(tmp_path).validation['coco/bbox_mAP'].steps == [10, 20]


def test_a_thinned_curve_keeps_the_lowest_and_the_highest() -> None:
    values = [1.0] * 100_000
    values[31_234], values[77_777] = 50.0, -3.0
    curve = thinned(Curve(list(range(100_000)), values), 2000)
    assert len(curve.steps) <= 2002
    assert (max(curve.values), min(curve.values)) == (50.0, -3.0)
    assert (curve.steps[0], curve.steps[-1]) == (0, 99_999)


def test_a_thinned_curve_keeps_its_gaps() -> None:
    values = [1.0] * 400 + [None] * 200 + [1.0] * 400
    assert None in thinned(Curve(list(range(1000)), values), 100).values


def test_the_best_loss_is_the_lowest_and_the_best_ap_the_highest() -> None:
    curve = Curve([1, 2, 3], [0.2, None, 0.5])
    assert best_of('val_loss', curve) == (1, 0.2)
    assert best_of('coco/bbox_mAP', curve) == (3, 0.5)


def test_the_epoch_of_a_step_is_known(tmp_path: Path) -> None:
    logs = logs_of(make_run(tmp_path / 'run'))
    assert [epoch_at(logs, step) for step in (0, 1, 10, 11, 30)] == [None, 1, 1, 2, 3]


def test_the_chapter_has_the_charts_that_the_log_has_numbers_for(tmp_path: Path) -> None:
    run = read_run(make_run(tmp_path / 'run'))
    charts = [part for part in training_section([Trained(run, read_logs(run))]).parts if isinstance(part, Chart)]
    assert [chart.id for chart in charts] == ['losses', 'validation', 'learning-rate', 'gradient', 'speed']
    assert all(isinstance(chart.table, Table) and chart.table.rows for chart in charts)


def test_the_best_validation_is_marked(tmp_path: Path) -> None:
    run = read_run(make_run(tmp_path / 'run'))
    chart = next(part for part in training_section([Trained(run, read_logs(run))]).parts
                 if isinstance(part, Chart) and part.id == 'validation')
    star = next(trace for trace in chart.figure['data'] if trace['marker'].get('symbol') == 'star')
    assert (star['x'], star['y']) == ([20], [0.3])


def test_two_runs_lie_over_each_other(tmp_path: Path) -> None:
    runs = [read_run(make_run(tmp_path / name)) for name in ('a', 'b')]
    parts = training_section([Trained(run, read_logs(run), run.name) for run in runs]).parts
    losses = next(part for part in parts if isinstance(part, Chart) and part.id == 'losses')
    assert {(trace['legendgroup'], trace['line']['dash']) for trace in losses.figure['data']} == {
        ('loss', 'solid'), ('loss', 'dot'), ('loss_cls', 'solid'), ('loss_cls', 'dot')}


def test_a_run_without_a_log_says_so(tmp_path: Path) -> None:
    (tmp_path / 'metrics.json').write_text('{"metrics": {}}')
    run = read_run(tmp_path)
    (note,) = training_section([Trained(run, read_logs(run))]).parts
    assert isinstance(note, Note)
    assert 'no training log' in note.text


def test_images_a_second_count_all_processes(tmp_path: Path) -> None:
    assert images_per_step(read_run(make_run(tmp_path / 'run'))) == 8
