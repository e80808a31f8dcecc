"""Steps on a copy: a sound run passes with its costs, a broken one is named, and the runner stays as it was."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from mmengine.runner import Runner
from rehearsal_helpers import DETECTOR, SEGMENTER, built, differences, kinds, make_data, state

from backbones.findings import Outcome
from backbones.preflight import rehearsal as module
from backbones.preflight.learning import STEPS
from backbones.preflight.rehearsal import check_rehearsal, duration
from backbones.preflight.steps import shrunk, smaller
from backbones.preflight.undisturbed import collated, training_sample
from backbones.preflight.worst_case import made_up_batch, worst_case

# No larger than the pictures, few and narrow blocks.
NARROW = {'model.data_preprocessor.size': (64, 96), 'model.backbone.arch.depth': 4,
          'model.backbone.out_indices': (0, 1, 2, 3)}


@pytest.fixture(scope='module')
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp('data'))


@pytest.fixture(scope='module')
def detector(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Runner:
    return built(DETECTOR, data, tmp_path_factory.mktemp('detector'))


@pytest.fixture(scope='module')
def segmenter(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Runner:
    return built(SEGMENTER, data, tmp_path_factory.mktemp('segmenter'), NARROW)


@pytest.fixture(scope='module')
def detected(detector: Runner) -> tuple[Outcome, list[str]]:
    """The rehearsal of the detector, and what it left changed."""
    before = copy.deepcopy(state(detector))
    outcome = check_rehearsal(detector)
    return outcome, differences(before, state(detector))


def test_a_sound_detector_has_no_finding(detected: tuple[Outcome, list[str]]) -> None:
    assert detected[0].findings == [] and detected[0].skipped == ''


def test_a_sound_segmenter_has_no_finding(segmenter: Runner) -> None:
    assert check_rehearsal(segmenter).findings == []


def test_nothing_of_the_runner_is_different_afterwards(detected: tuple[Outcome, list[str]]) -> None:
    assert detected[1] == []


def test_the_costs_follow_from_the_steps(detected: tuple[Outcome, list[str]], detector: Runner) -> None:
    figures = detected[0].figures
    assert figures['size'] == [64, 96] and figures['images'] == 4 and figures['passes'] == 1
    assert figures['run_seconds'] == pytest.approx(figures['step_seconds'] * detector.max_iters)
    assert figures['epoch_seconds'] == pytest.approx(figures['step_seconds'] * 6 / 4)
    assert figures['peak_bytes'] > 0 and figures['worst_pass_seconds'] > 0


def test_ten_steps_are_taken_on_one_batch_and_its_loss_falls(detected: tuple[Outcome, list[str]]) -> None:
    losses = detected[0].figures['learning_losses']
    assert len(losses) == STEPS and losses[-1] < losses[0]


def test_the_worst_batch_has_the_most_objects_of_any_picture(detector: Runner) -> None:
    dataset = detector.train_loop.dataloader.dataset
    most = max(sum(not one['ignore_flag'] for one in dataset.get_data_info(n)['instances']) for n in range(6))
    case = worst_case(detector, detector.model)
    batch = made_up_batch(detector.model, case)
    assert [len(sample.gt_instances) for sample in batch['data_samples']] == [most] * 4
    assert all(len(sample.gt_instances.masks) == most for sample in batch['data_samples'])


def test_the_labels_of_a_made_up_batch_hold_every_class(segmenter: Runner) -> None:
    case = worst_case(segmenter, segmenter.model).at((320, 320))
    labels = made_up_batch(segmenter.model, case)['data_samples'][0].gt_sem_seg.data
    assert labels.unique().tolist() == list(range(10))


@pytest.fixture
def broken(segmenter: Runner) -> Runner:
    """The segmenter, whose parts a test may change."""
    head, cfg = segmenter.model.decode_head, copy.deepcopy(segmenter.cfg)
    kept = copy.deepcopy(head.state_dict())
    yield segmenter
    head.__dict__.pop('forward', None)
    head.load_state_dict(kept)
    segmenter.cfg._cfg_dict.update(cfg._cfg_dict)


def test_a_loss_that_is_nan_is_an_error_that_names_it(broken: Runner) -> None:
    with torch.no_grad():
        broken.model.decode_head.conv_seg.weight.fill_(float('nan'))
        broken.model._is_init = True  # the weights of the start are these
    outcome = check_rehearsal(broken)
    broken.model._is_init = False
    assert kinds(outcome) == [('error', 'loss not finite')] and outcome.findings[0].field == 'decode.loss_ce'


def test_parameters_of_a_detached_part_are_named(broken: Runner) -> None:
    def detached(self, inputs):
        return self.cls_seg(self._forward_feature(inputs).detach())

    broken.model.decode_head.forward = detached.__get__(broken.model.decode_head)
    outcome = check_rehearsal(broken)
    assert set(kinds(outcome)) == {('error', 'no gradient')}
    fields = [finding.field for finding in outcome.findings]
    assert 'decode_head.lateral_convs' in fields
    assert 'decode_head.conv_seg' not in fields and 'decode_head' not in fields


def test_parameters_without_a_gradient_are_a_note_where_the_config_allows_them(broken: Runner) -> None:
    broken.model.register_parameter('spare', torch.nn.Parameter(torch.zeros(3)))
    broken.cfg.find_unused_parameters = True
    outcome = check_rehearsal(broken)
    del broken.model.spare
    assert kinds(outcome) == [('note', 'no gradient')] and outcome.findings[0].field == 'spare'


def test_a_learning_rate_of_a_million_is_an_error(broken: Runner) -> None:
    broken.cfg.optim_wrapper.optimizer.lr = 1e6
    outcome = check_rehearsal(broken)
    assert [severity for severity, _ in kinds(outcome)] == ['error']
    assert outcome.findings[0].kind in ('learning rate too high', 'loss rises')
    assert 'lower optim_wrapper.optimizer.lr' in outcome.findings[0].remedy


def test_a_learning_rate_thirty_times_too_high_is_told_from_a_loss_that_cannot_fall(broken: Runner) -> None:
    broken.cfg.optim_wrapper.optimizer.lr = 30.0
    assert kinds(check_rehearsal(broken)) == [('error', 'learning rate too high')]


def test_a_learning_rate_near_zero_is_a_warning(broken: Runner) -> None:
    broken.cfg.optim_wrapper.optimizer.lr = 1e-9
    assert kinds(check_rehearsal(broken)) == [('warning', 'loss hardly falls')]


def test_a_step_that_fails_is_a_finding(broken: Runner) -> None:
    def fails(inputs):
        raise RuntimeError('The size of tensor a (7) must match\nthe size of tensor b (8)')

    broken.model.decode_head.forward = fails
    (finding,) = check_rehearsal(broken).findings
    assert finding.kind == 'step fails'
    assert 'RuntimeError: The size of tensor a (7) must match the size of tensor b (8)' in finding.message


def test_a_step_that_does_not_fit_into_memory_names_the_remedy(broken: Runner) -> None:
    def fails(inputs):
        raise torch.cuda.OutOfMemoryError('CUDA out of memory. Tried to allocate 2.00 GiB')

    broken.model.decode_head.forward = fails
    (finding,) = check_rehearsal(broken).findings
    assert finding.kind == 'out of memory' and 'tools/budget.py' in finding.remedy and '4 images' in finding.message


def test_an_unreadable_training_picture_is_named(detector: Runner, data: Path) -> None:
    places = {path: path.read_bytes() for path in (data / 'images/training').iterdir()}
    for path in places:
        path.write_bytes(b'no picture')
    try:
        outcome = check_rehearsal(detector)
    finally:
        for path, content in places.items():
            path.write_bytes(content)
    assert outcome.findings and all(finding.severity == 'error' for finding in outcome.findings)
    assert '.jpg' in outcome.findings[0].message


def test_without_time_for_full_images_smaller_ones_are_run_and_said(
    segmenter: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, 'SMALL', 0)
    monkeypatch.setattr(module, 'SHARE', 0.0)
    case = worst_case(segmenter, segmenter.model).at((256, 256))
    monkeypatch.setattr(module, 'worst_case', lambda *args: case)
    outcome = check_rehearsal(segmenter)
    assert outcome.findings == [] and outcome.figures['used_size'] == [64, 64] and outcome.figures['scaled_by'] == 16
    assert any('run with images of 64 x 64: a pass on 4 of 256 x 256 would take about' in line
               for line in outcome.details)
    assert 'about' in outcome.summary and 'peak_bytes' not in outcome.figures


def test_without_time_the_learning_is_left_out_and_said(segmenter: Runner) -> None:
    outcome = check_rehearsal(segmenter, seconds=0.01)
    assert outcome.findings == [] and any(line.startswith('left out: ') for line in outcome.details)


def test_a_batch_is_made_smaller_with_its_boxes_and_masks(detector: Runner) -> None:
    loader = detector.train_loop.dataloader
    batch = collated(loader, [training_sample(loader.dataset, n) for n in range(6)])
    small = shrunk(batch, (32, 48))
    for image, sample, before in zip(small['inputs'], small['data_samples'], batch['data_samples'], strict=True):
        assert image.shape[-2:] == (32, 48)
        boxes, old = sample.gt_instances.bboxes.tensor, before.gt_instances.bboxes.tensor
        torch.testing.assert_close(boxes, old / 2)
        assert sample.gt_instances.masks.to_ndarray().shape == (len(boxes), 32, 48)


@pytest.mark.parametrize(('size', 'factor', 'made'), [
    ((1344, 1344), 0.25, (320, 320)), ((800, 1344), 0.5, (384, 640)), ((64, 96), 0.25, (64, 64))])
def test_smaller_sizes_are_multiples_and_never_larger(size: tuple, factor: float, made: tuple) -> None:
    assert smaller(size, factor, 64) == made


@pytest.mark.parametrize(('seconds', 'words'), [
    (0.211, '0.21 s'), (42.4, '42 s'), (60.0, '1 min'), (190, '3 min 10 s'), (19200, '5 h 20 min'),
    (270000, '3 d 3 h')])
def test_durations_are_read_at_a_glance(seconds: float, words: str) -> None:
    assert duration(seconds) == words
