"""What pretrained weights would fill is known before training, and the model stays as it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from preflight_runs import fake_run, kinds, only
from recipe_configs import DETECTOR, SEGMENTER

from backbones.findings import Outcome
from backbones.preflight.weights import check_weights

State = dict[str, torch.Tensor]


@pytest.fixture(autouse=True)
def _empty_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path / 'hub'))
    monkeypatch.delenv('MMBACKBONES_OFFLINE', raising=False)


def backbone_state(path: Path = DETECTOR) -> State:
    torch.manual_seed(1)
    state = fake_run(path).model.backbone.state_dict()
    return {name: torch.randn_like(value) if value.is_floating_point() else value for name, value in state.items()}


def saved(folder: Path, state: State, wrapper: str | None = 'model', name: str = 'w.pth') -> Path:
    path = folder / name
    torch.save({wrapper: state} if wrapper else state, path)
    return path


def weights(checkpoint: object, path: Path = DETECTOR, more: dict | None = None, **entry: Any) -> Outcome:
    given = dict(type='Pretrained', checkpoint=str(checkpoint), **entry)
    return check_weights(fake_run(path, {'model.backbone.init_cfg': given, **(more or {})}))


def test_a_file_that_fills_everything_is_sound_and_counted(tmp_path: Path) -> None:
    outcome = weights(saved(tmp_path, backbone_state()))
    assert outcome.findings == []
    assert outcome.figures['backbone']['filled'] == 1.0 and outcome.figures['backbone']['random'] == 0.0
    assert '100/100 parameters' in outcome.summary or 'parameters, 1.1 M' in outcome.summary
    assert outcome.details[-1].startswith('renamed or converted')


def test_the_model_is_not_touched(tmp_path: Path) -> None:
    file = saved(tmp_path, backbone_state())
    run = fake_run(DETECTOR, {'model.backbone.init_cfg': dict(type='Pretrained', checkpoint=str(file))})
    before = {name: value.clone() for name, value in run.model.state_dict().items()}
    check_weights(run)
    assert all(value.equal(before[name]) for name, value in run.model.state_dict().items())
    assert not run.model.backbone.is_init and not hasattr(run.model.backbone, 'loaded_from')


def test_output_norms_that_a_classifier_lacks_are_no_finding(tmp_path: Path) -> None:
    state = {name: value for name, value in backbone_state().items() if not name.startswith('norm')}
    outcome = weights(saved(tmp_path, {**state, 'head.weight': torch.zeros(3, 192), 'norm.weight': torch.zeros(192)}))
    assert outcome.findings == []
    assert 0 < outcome.figures['backbone']['random'] < 0.01
    assert 'norm0.weight' in outcome.figures['backbone']['left_random']
    assert outcome.figures['backbone']['dropped']


def test_a_part_that_is_missing_is_found_with_its_share(tmp_path: Path) -> None:
    state = {name: value for name, value in backbone_state().items() if not name.startswith('stages.3')}
    said = only(weights(saved(tmp_path, state)), 'error', 'weights do not fit')
    assert 'parameters are missing in the file' in said and 'of the values would stay random' in said


def test_the_same_is_a_warning_where_the_config_allows_it(tmp_path: Path) -> None:
    state = {name: value for name, value in backbone_state().items() if not name.startswith('stages.3')}
    assert only(weights(saved(tmp_path, state), strict=False), 'warning', 'weights fill a part')


def test_a_file_of_another_size_is_found(tmp_path: Path) -> None:
    file = saved(tmp_path, backbone_state())
    dims = (16, 32, 64, 128)
    outcome = weights(file, more={'model.backbone.arch.dims': dims, 'model.neck.in_channels': list(dims)})
    assert 'the file is of another size' in only(outcome, 'error', 'weights do not fit')


def test_a_file_of_another_family_is_found(tmp_path: Path) -> None:
    said = only(weights(saved(tmp_path, backbone_state(SEGMENTER))), 'error', 'weights do not fit')
    assert str(tmp_path) in said


def test_values_that_are_no_numbers_are_found(tmp_path: Path) -> None:
    state = backbone_state()
    state['stages.0.0.pwconv1.weight'][0] = float('nan')
    said = only(weights(saved(tmp_path, state)), 'error', 'weights do not fit')
    assert 'hold NaN or infinity: stages.0.0.pwconv1.weight' in said


@pytest.mark.parametrize('content', [b'', b'<html>404</html>', b'PK\x03\x04'])
def test_a_file_that_cannot_be_read_is_found(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / 'broken.pth'
    path.write_bytes(content)
    assert 'broken.pth' in only(weights(path), 'error', 'weights do not fit')


def test_a_file_that_is_not_there_is_found(tmp_path: Path) -> None:
    said = only(weights(tmp_path / 'nowhere.pth'), 'error', 'weights missing')
    assert said.startswith(f'the file {tmp_path}/nowhere.pth does not exist')


def test_a_misspelt_short_name_is_found_with_the_nearest() -> None:
    assert "'convnext-t-in22k'" in only(weights('convnext-t-in22'), 'error', 'weights unknown')


def test_a_download_is_left_for_later_and_refused_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    outcome = weights('convnext-t-in22k')
    assert outcome.findings == [] and 'will be downloaded when training starts' in outcome.summary
    monkeypatch.setenv('MMBACKBONES_OFFLINE', '1')
    said = only(weights('convnext-t-in22k'), 'warning', 'weights not here')
    assert 'convnext-t-in22k' in said and 'MMBACKBONES_OFFLINE forbids' in said


def test_a_whole_detector_where_a_backbone_is_asked_for_is_noted(tmp_path: Path) -> None:
    state = fake_run(DETECTOR).model.state_dict()
    said = only(weights(saved(tmp_path, state, 'state_dict')), 'note', 'weights of a whole model')
    assert 'roi_head' in said and 'set load_from' in said


def test_a_backbone_without_weights_is_found_unless_the_card_says_so() -> None:
    sound = check_weights(fake_run(DETECTOR))
    assert sound.findings == [] and sound.summary.endswith('as the card says')
    run = fake_run(DETECTOR, {'card.init': 'convnext-t-in1k'})
    assert 'starts from random values' in only(check_weights(run), 'warning', 'no pretrained weights')
    run.cfg.pop('card')
    assert kinds(check_weights(run)) == [('warning', 'no pretrained weights')]
    run.cfg.resume = True
    assert check_weights(run).findings == []


def test_a_whole_model_with_other_classes_is_sound_and_another_model_is_found(tmp_path: Path) -> None:
    heads = {f'model.roi_head.{head}.num_classes': 3 for head in ('bbox_head', 'mask_head')}
    file = saved(tmp_path, fake_run(DETECTOR, heads).model.state_dict(), 'state_dict')
    outcome = check_weights(fake_run(DETECTOR, {'load_from': str(file)}))
    assert outcome.findings == [] and outcome.summary == f'MaskRCNN <- {file}: the whole model'
    assert only(check_weights(fake_run(SEGMENTER, {'load_from': str(file)})), 'error', 'weights do not fit')
    assert only(check_weights(fake_run(DETECTOR, {'load_from': 'nowhere.pth'})), 'error', 'weights missing')


def test_a_backbone_of_mmdet_that_finds_nothing_in_its_file_is_found(tmp_path: Path) -> None:
    run = fake_run(DETECTOR)
    from mmdet.models import ResNet

    resnet = ResNet(18)
    file = saved(tmp_path, resnet.state_dict())  # below `model`, where MMEngine does not look
    resnet.init_cfg = dict(type='Pretrained', checkpoint=str(file))
    run.model.backbone = resnet
    assert 'only 0% of the values of ResNet' in only(check_weights(run), 'warning', 'weights fill a part')
    saved(tmp_path, resnet.state_dict(), 'state_dict')
    outcome = check_weights(run)
    assert outcome.findings == [] and '100.0% of the values by name' in outcome.summary
