"""What SafeCheckpointHook takes and refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
from saving_helpers import build, folders, record_warnings, train

from backbones.training.safe_checkpoint import SafeCheckpointHook


@pytest.fixture
def warnings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What runs warn of."""
    return record_warnings(monkeypatch)


@pytest.mark.parametrize(('options', 'text'), [
    (dict(max_keep_ckpts='3'), "max_keep_ckpts='3'; give a number"), (dict(max_keep_ckpts=1.5), 'max_keep_ckpts=1.5'),
    (dict(max_keep_ckpts=None), 'max_keep_ckpts=None'), (dict(out_dir=3), 'out_dir=3; give the path'),
    (dict(save_begin='1'), "save_begin='1'"), (dict(save_begin=-1), 'save_begin=-1; give'),
    (dict(save_begin=None), 'save_begin=None'), (dict(filename_tmpl=3), 'filename_tmpl=3'),
    (dict(save_best='nonsense'), r"save_best=nonsense: whether more .* write rule='greater' or rule='less'"),
    (dict(save_best=['mAP', 'nonsense']), r"save_best=\['mAP', 'nonsense'\]: whether more"),
], ids=str)
def test_an_option_of_the_wrong_kind_is_named(options: dict, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        SafeCheckpointHook(**options)


@pytest.mark.parametrize('template', ['model_{}.pth', 'model_{:06d}.pth', '{:d}', '{0}', '{:>5}.pth', 'x{{}}_{}'])
def test_a_template_that_gives_each_number_a_name_is_taken(template: str) -> None:
    assert SafeCheckpointHook(filename_tmpl=template)._template == template


@pytest.mark.parametrize('template', ['model.pth', '{}_{}', '{', '{x}', 'a/{}', '.{}', '{:c}', '{:.0e}', 'iter_{:06d}',
                                      '{0.x}', '{:300d}', ''])
def test_a_template_that_does_not_is_refused(template: str) -> None:
    with pytest.raises(ValueError, match='filename_tmpl'):
        SafeCheckpointHook(filename_tmpl=template)


def test_numbers_are_written_as_the_template_says(tmp_path: Path) -> None:
    train(tmp_path, 4, filename_tmpl='model_{:06d}.pth')
    assert (tmp_path / 'model_000004.pth').is_file()


def test_the_best_of_a_run_without_validation_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"save_best=\['mAP'\] needs a validation, and this run has none"):
        train(tmp_path, 2, save_best='mAP')


def test_a_metric_that_is_not_measured_is_a_warning_at_each_validation(tmp_path: Path, warnings: list[str]) -> None:
    train(tmp_path, 4, scores=[0.1, 0.2], save_best='mDice')
    said = [text for text in warnings if "save_best='mDice' is not measured" in text]
    assert len(said) == 2 and said[0].endswith('choose among mAP')
    assert folders(tmp_path) == ['iter_000002', 'iter_000004'] and not (tmp_path / 'best.json').exists()


def test_a_first_metric_of_unknown_direction_is_a_warning(tmp_path: Path, warnings: list[str]) -> None:
    runner = build(tmp_path, 4, scores=[0.1, 0.2], save_best='auto', greater_keys=['x'])
    runner.train()
    assert len([text for text in warnings if 'save_best=auto, which is mAP here: whether more' in text]) == 2


@pytest.mark.parametrize('score', [float('nan'), float('inf'), 'high', None], ids=str)
def test_a_score_that_is_no_finite_number_is_never_the_best(
    tmp_path: Path, warnings: list[str], score: object
) -> None:
    train(tmp_path, 4, scores=[score, 0.2], save_best='mAP')
    assert '"score": 0.2' in (tmp_path / 'best.json').read_text()
    assert [text for text in warnings if 'is no finite number' in text]
