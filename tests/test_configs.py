"""Every shipped config builds and fits together; fragments stay fragments; overrides and what is wrong with them.

That a config is what its card says, tests/recipes/test_check.py shows.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmseg.structures import SegDataSample

from backbones.config import load_config
from backbones.evaluation.run import run_test, use_tta
from backbones.flops import on_meta
from backbones.preflight.model import check_model
from backbones.recipes.keys import check_config

LEAVES = sorted(p for p in (ROOT / 'configs').glob('*/*.py') if p.parent.name != '_base_')
FRAGMENTS = sorted((ROOT / 'configs' / '_base_').rglob('*.py'))
leaf = pytest.mark.parametrize('path', LEAVES, ids=lambda path: path.stem)


def build_on_meta(path: Path) -> torch.nn.Module:
    """Build the model of a config without memory for its weights."""
    cfg = Config.fromfile(path)
    init_default_scope(cfg.default_scope)
    with on_meta():
        return MODELS.build(cfg.model)


def assigned_names(path: Path) -> set[str]:
    body = ast.parse(path.read_text()).body
    return {target.id for node in body if isinstance(node, ast.Assign) for target in node.targets}


def norm_cfgs(node: object) -> list[dict]:
    """Every dict that names a norm."""
    children = list(node.values()) if isinstance(node, dict) else list(node) if isinstance(node, list | tuple) else []
    own = [node] if isinstance(node, dict) and str(node.get('type')).endswith(('BN', 'LN2d', 'GN', 'LN')) else []
    return own + [found for child in children for found in norm_cfgs(child)]


@pytest.mark.parametrize('path', FRAGMENTS, ids=lambda path: path.stem)
def test_a_fragment_has_no_base_and_no_backbone(path: Path) -> None:
    assert '_base_' not in assigned_names(path)
    assert 'backbone' not in Config.fromfile(path).get('model', {})


@leaf
def test_every_norm_states_its_eps(path: Path) -> None:
    missing = [norm for norm in norm_cfgs(Config.fromfile(path).model.to_dict()) if 'eps' not in norm]
    assert missing == []


def structures() -> list[Path]:
    """One leaf for every model that differs in more than weights and drop path."""
    seen: dict[str, Path] = {}
    for path in LEAVES:
        model = Config.fromfile(path).model.to_dict()
        model['backbone'] |= dict(init_cfg=None, drop_path_rate=0.0)
        seen.setdefault(repr(model), path)
    return list(seen.values())


@pytest.mark.parametrize('path', structures(), ids=lambda path: path.stem)
def test_maps_and_strides_of_every_model_fit_together(path: Path) -> None:
    check_model(build_on_meta(path))


def test_a_vit_segmenter_labels_an_image_as_if_its_border_were_padded_and_cropped() -> None:
    torch.manual_seed(0)
    cfg = Config.fromfile(ROOT / 'configs/small/upernet_vit_demo.py')
    init_default_scope(cfg.default_scope)
    model = MODELS.build(cfg.model).eval()
    image = torch.randint(0, 256, (3, 92, 101), dtype=torch.uint8)

    def logits(picture: torch.Tensor) -> torch.Tensor:
        shape = tuple(picture.shape[1:])
        sample = SegDataSample(metainfo=dict(ori_shape=shape, img_shape=shape))
        return model.test_step(dict(inputs=[picture], data_samples=[sample]))[0].seg_logits.data  # (classes, H, W)

    # padding follows the normalisation: its zeros are the mean colour
    grey = torch.tensor(cfg.model.data_preprocessor.mean[::-1])[:, None, None]
    padded = grey.expand(3, 96, 104).clone()
    padded[:, :92, :101] = image
    torch.testing.assert_close(logits(image), logits(padded)[:, :92, :101], atol=1e-4, rtol=1e-4)


def test_an_option_moves_all_data_at_once() -> None:
    cfg = load_config(ROOT / 'configs/small/mask-rcnn_convnext_demo.py', {'data_root': '/elsewhere/demo'})
    assert cfg.train_dataloader.dataset.data_root == '/elsewhere/demo/'
    assert cfg.test_evaluator.ann_file == '/elsewhere/demo/annotations/instances_val.json'


def test_a_misspelt_option_is_refused_with_the_nearest_key() -> None:
    with pytest.raises(ValueError, match="did you mean 'optim_wrapper'"):
        load_config(ROOT / 'configs/small/mask-rcnn_convnext_demo.py', {'optim_wraper.optimizer.lr': 1})


def test_a_missing_config_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(ValueError, match=r"did you mean 'mask-rcnn_convnext_demo.py'"):
        load_config(ROOT / 'configs/small/mask-rcnn_convnet_demo.py')


@pytest.mark.parametrize('suffix', ['.yaml', '.yml', '.json', '.pkl'])
def test_what_is_no_python_config_is_refused_and_runs_nothing(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f'config{suffix}'
    path.write_text(f'a: !!python/object/apply:os.mkdir [{tmp_path}/made]')
    with pytest.raises(ValueError, match=r'is no Python file; configs end in \.py'):
        load_config(path)
    assert not (tmp_path / 'made').exists()


def test_a_folder_in_place_of_a_config_is_refused_with_the_files_in_it() -> None:
    with pytest.raises(ValueError, match=r"small' is a folder; name one file in it \(mask-rcnn_convnext_coco8.py, "):
        load_config(ROOT / 'configs/small')


@pytest.mark.parametrize('below', ['', 'deeper/still'])
def test_a_file_in_place_of_the_work_folder_is_refused(tmp_path: Path, below: str) -> None:
    (tmp_path / 'notes.md').write_text('mine')
    with pytest.raises(ValueError, match=r'notes\.md is a file; choose another --work-dir'):
        load_config(ROOT / 'configs/small/upernet_vit_demo.py', work_dir=str(tmp_path / 'notes.md' / below))


def test_an_option_for_a_variable_of_the_file_is_refused_because_it_has_no_effect() -> None:
    with pytest.raises(ValueError, match=r"'iterations' is a variable that is used only while the config is read"):
        load_config(ROOT / 'configs/small/upernet_vit_demo.py', {'iterations': 3})


def test_a_misspelt_part_of_an_option_is_refused_and_a_new_dict_is_not() -> None:
    with pytest.raises(ValueError, match=r"model has no 'tets_cfg'; did you mean 'test_cfg'"):
        load_config(ROOT / 'configs/small/mask-rcnn_convnext_demo.py', {'model.tets_cfg.rcnn.score_thr': 1})
    cfg = load_config(
        ROOT / 'configs/small/mask-rcnn_convnext_demo.py', {'train_dataloader.dataset.metainfo.classes': ['disc']})
    assert cfg.train_dataloader.dataset.metainfo.classes == ['disc']


def test_views_of_test_time_augmentation_tell_whether_they_are_flipped() -> None:
    for path in LEAVES:
        pack = Config.fromfile(path).test_dataloader.dataset.pipeline[-1]
        assert 'flip' in pack.get('meta_keys', ('flip',)), path


def test_fp32_by_one_option_takes_what_only_mixed_precision_has_along() -> None:
    for name in ('convnext/mask-rcnn_convnext-t-in1k_3x_coco', 'vit/mask-rcnn_vitdet-b-mae_100e_coco'):
        cfg = load_config(ROOT / f'configs/{name}.py', {'optim_wrapper.type': 'OptimWrapper'})
        assert 'dtype' not in cfg.optim_wrapper
        check_config(cfg)


def test_a_dead_key_is_refused_before_a_test_looks_for_its_checkpoint() -> None:
    with pytest.raises(ValueError, match=r"score_threshold=0\.5: .* did you mean 'score_thr'"):
        run_test(ROOT / 'configs/small/mask-rcnn_convnext_demo.py', 'nope.pth',
                 options={'model.test_cfg.rcnn.score_threshold': 0.5})


def test_the_multi_scale_test_slides_where_the_config_says_so_and_sees_whole_images_otherwise() -> None:
    sliding = load_config(ROOT / 'configs/vit/upernet_beit-b-in22k_160k_ade20k-640.py')
    use_tta(sliding)
    assert sliding.model.module.test_cfg == dict(mode='slide', crop_size=(640, 640), stride=(426, 426))
    whole = load_config(ROOT / 'configs/convnext/upernet_convnext-t-in1k_160k_ade20k-512.py')
    use_tta(whole)
    assert whole.model.module.test_cfg == dict(mode='whole')


def test_an_unknown_mode_of_the_multi_scale_test_is_refused() -> None:
    cfg = load_config(ROOT / 'configs/vit/upernet_beit-b-in22k_160k_ade20k-640.py', {'tta_mode': 'tiles'})
    with pytest.raises(ValueError, match=r"tta_mode='tiles' is unknown; choose one of \['whole', 'slide'\]"):
        use_tta(cfg)
