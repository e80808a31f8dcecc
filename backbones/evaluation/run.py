"""Score a checkpoint on the config's test split."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmengine.config import Config, ConfigDict
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from torch import nn

from backbones.classes_setting import apply_classes
from backbones.config import fit_to_machine, is_segmenter, load_config
from backbones.data.classes import check_same_classes
from backbones.evaluation.checkpoint_config import check_file, find_checkpoint
from backbones.evaluation.fast import choose_precision, make_fast
from backbones.evaluation.labels import spare_scores
from backbones.evaluation.lean import merges_masks, needs_labels_only, spare_masks
from backbones.evaluation.tiles import Tiles, remark, scales_as_tuples, use_tiles
from backbones.preflight.model import check_classes, check_evaluator
from backbones.recipes.keys import check_config
from backbones.runner import build_runner
from backbones.training.hardening import harden_reading
from backbones.training.progress import progress_shown
from backbones.weights.whole_model import load_model_checkpoint

if TYPE_CHECKING:
    from backbones.evaluation.details import DetailOptions

TTA_MODES = ('whole', 'slide')


def run_test(
    config: str | Path,
    checkpoint: str | Path,
    work_dir: str | None = None,
    tta: bool = False,
    out: str | None = None,
    show_dir: str | None = None,
    options: dict[str, Any] | None = None,
    launcher: str = 'none',
    precision: str | None = None,
    compiled: bool = False,
    details: DetailOptions | None = None,
    tiles: Tiles | None = None,
    loss: bool = False,
    plain: bool = False,
) -> dict[str, float]:
    """Evaluate `checkpoint` with `config`; `metrics.json` in the work folder holds numbers and protocol.

    Args:
        config: path of the config.
        checkpoint: path of a checkpoint of this model, or the work folder of a run.
        work_dir: default `work_dirs/<config name>`.
        tta: several scales and a horizontal flip; a segmenter then sees whole images, as most published multi-scale
            numbers do, or what the config's `tta_mode` says ('slide': BEiT and MAE, whose positions have one size).
        out: `.json` for COCO results of a detector, `.zip` for the label PNGs of a segmenter.
        show_dir: folder for overlays, prediction beside ground truth.
        options: dotted config keys to override.
        launcher: 'none', 'pytorch', 'slurm' or 'mpi'.
        precision: 'fp32', 'bf16' or 'fp16' in place of the config's `precision`. With either of them the model is
            made fast: `backbones.evaluation.fast`.
        compiled: compile the dense parts of the model, once for every size of a batch.
        details: write the folder `evaluation/` and print tables, too: `backbones.evaluation.details`.
        tiles: large pictures are looked at in tiles; a segmenter slides its window.
        loss: measure the losses of the test split, too: `backbones.evaluation.validation_loss`.
        plain: no bar in a terminal.

    Returns:
        The metrics by name, as the config's evaluator gives them.

    Raises:
        ValueError: anything that can be known wrong before the first image.
    """
    if tta and tiles:
        raise ValueError('--tile and --tta do not go together; leave one of them out')
    cfg = load_config(config, options, work_dir)
    cfg.launcher = launcher
    check_config(cfg)
    notes = apply_classes(cfg)
    precision = choose_precision(cfg, precision, compiled)
    checkpoint = find_checkpoint(checkpoint, notes.append)
    check_file(checkpoint)
    cfg.load_from = str(checkpoint)  # as the record of the run; loaded below
    fit_to_machine(cfg, training=False)
    if details is not None:
        details.check(is_segmenter(cfg))
    _check_places(cfg, out, show_dir)
    harden_reading(cfg, ('test',))
    scales_as_tuples(cfg)
    labels_only = is_segmenter(cfg) and not tta and needs_labels_only(cfg, 'test')
    complete = copy.deepcopy(cfg)  # before anything that a prediction does without is left out
    if tiles and (text := remark(tiles, is_segmenter(cfg))):
        notes.append(text)
    notes += spare_masks(cfg, 'test', draws=bool(show_dir)) if not tta or merges_masks(cfg) else []
    if tta:
        use_tta(cfg)
    _add_options(cfg, tiles, loss, out, show_dir)
    runner = build_runner(cfg, splits=('test',))
    model = _load(runner, checkpoint, tta or bool(tiles and not is_segmenter(cfg)))
    if labels_only:
        spare_scores(model)
    if loss:
        _measure(runner, complete)
    make_fast(model, precision, compiled)
    for note in [*notes, *([f'the model computes in {precision}'] if precision else [])]:
        runner.logger.info(note)
    return _evaluate(runner, checkpoint, details, tta, out, plain)


def _evaluate(
    runner: Runner, checkpoint: str | Path, details: DetailOptions | None, tta: bool, out: str | None, plain: bool
) -> dict[str, float]:
    """Run the test; with `details`, keep what it predicts and look at that afterwards."""
    if details is None:
        with progress_shown(runner, plain):
            return runner.test()
    from backbones.evaluation.details import Details

    kept = Details(runner, str(checkpoint), details, tta, out)
    with progress_shown(runner, plain):
        metrics = runner.test()
    kept.write(metrics)
    return metrics


def _add_options(cfg: Config, tiles: Tiles | None, loss: bool, out: str | None, show_dir: str | None) -> None:
    """Put what was asked for into the config, in place."""
    if tiles:
        from backbones.evaluation import tiles_model  # noqa: F401, registers the model and the step of the pipeline

        use_tiles(cfg, tiles, cfg.test_dataloader.get('batch_size') or 1)
    hooks = list(cfg.get('custom_hooks') or [])
    if loss:
        from backbones.evaluation import validation_loss  # noqa: F401, registers the hook

        hooks.append(dict(type='backbones.ValidationLossHook', split='test'))
    if out or show_dir:
        hooks.append(dict(type='backbones.PredictionFileHook', out_file=out, show_dir=show_dir))
    if hooks:
        cfg.custom_hooks = hooks


def _check_places(cfg: Config, out: str | None, show_dir: str | None) -> None:
    """Refuse a file of another kind than the model writes, and places that hold something."""
    wanted = '.zip' if is_segmenter(cfg) else '.json'
    if out and Path(out).suffix != wanted:
        raise ValueError(f'--out {out}: a {"segmenter" if is_segmenter(cfg) else "detector"} writes a {wanted} file')
    for option, place in (('--out', out), ('--show-dir', show_dir)):
        if place and (Path(place).is_file() or (Path(place).is_dir() and any(Path(place).iterdir()))):
            raise ValueError(f'{option} {place} exists; choose another name, nothing is overwritten')


def _load(runner: Runner, checkpoint: str | Path, wrapped: bool) -> nn.Module:
    """Hold model and data against each other, fill the model, and give it without what is around it."""
    model = runner.model.module if is_model_wrapper(runner.model) else runner.model
    model = model.module if wrapped else model
    classes = tuple(runner.test_loop.dataloader.dataset.metainfo['classes'])
    check_classes(model, classes, 'the test data set')
    check_evaluator(runner.test_loop)
    trained_on = (load_model_checkpoint(model, checkpoint).get('dataset_meta') or {}).get('classes')
    if trained_on:
        check_same_classes(**{f'checkpoint {checkpoint}': trained_on, 'the test data set': classes})
    runner._has_loaded = True  # loaded by our own strict reader; MMEngine's would accept another model's file
    return model


def _measure(runner: Runner, cfg: Config) -> None:
    """Let the hook of `loss` measure, while the weights are as they were trained."""
    from backbones.evaluation.protocol import LOSS
    from backbones.evaluation.validation_loss import ValidationLossHook, loss_data

    hook = next(hook for hook in runner.hooks if isinstance(hook, ValidationLossHook) and hook.split == 'test')
    hook.data = loss_data(cfg, 'test')  # of the config before anything was left out of it
    found = hook.measure(runner)
    runner.logger.info(f'losses of the test split ({LOSS}): ' + ', '.join(f'{k} {v:.4f}' for k, v in found.items()))


def use_tta(cfg: Config) -> None:
    """Put `cfg.tta_model` around the model and its views into the test pipeline.

    Raises:
        ValueError: the config has no `tta_model` or no `tta_scales`, or another `tta_mode` than these two.
    """
    missing = [key for key in ('tta_model', 'tta_scales') if key not in cfg]
    if missing:
        raise ValueError(f'--tta: {cfg.filename} has no {" and no ".join(missing)}; see configs/_base_/runtime_*.py')
    if is_segmenter(cfg):
        mode = cfg.get('tta_mode', 'whole')
        if mode not in TTA_MODES:
            raise ValueError(f'{cfg.filename}: tta_mode={mode!r} is unknown; choose one of {list(TTA_MODES)}')
        if mode == 'slide' and 'crop_size' not in cfg.model.test_cfg:
            raise ValueError(f"{cfg.filename}: tta_mode='slide' needs crop_size and stride in model.test_cfg")
        cfg.model.test_cfg = dict(mode='whole') if mode == 'whole' else dict(cfg.model.test_cfg, mode='slide')
    cfg.model = ConfigDict(**cfg.tta_model, module=cfg.model)
    dataset = cfg.test_dataloader.dataset
    dataset.pipeline = tta_pipeline(dataset.pipeline, cfg.tta_scales)


def tta_pipeline(pipeline: list[dict], scales: list[tuple[int, int]]) -> list[dict]:
    """Replace the `Resize` of a test pipeline by one view per scale and flip.

    Args:
        pipeline: a test pipeline with one `Resize`.
        scales: (width, height) in pixels, each image resized to fit with its aspect ratio kept.
    """
    kinds = [step['type'].rsplit('.', 1)[-1] for step in pipeline]
    if kinds.count('Resize') != 1:
        raise ValueError(f'--tta needs exactly one Resize in the test pipeline, which is {kinds}')
    place = kinds.index('Resize')
    views = [
        [dict(type='Resize', scale=tuple(scale), keep_ratio=True) for scale in scales],
        [dict(type='RandomFlip', prob=prob, direction='horizontal') for prob in (0.0, 1.0)],
        *([step] for step in pipeline[place + 1 :]),
    ]
    return [*pipeline[:place], dict(type='TestTimeAug', transforms=views)]


