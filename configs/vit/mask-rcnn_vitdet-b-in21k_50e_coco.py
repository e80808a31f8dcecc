"""Mask R-CNN, ViT-B (ImageNet-21k, supervised) as ViTDet, 50 epochs, COCO.

torchrun --nnodes 8 --nproc_per_node 8 tools/train.py configs/vit/mask-rcnn_vitdet-b-in21k_50e_coco.py \
    --launcher pytorch
"""
_base_ = ['../_base_/models/mask_rcnn_vitdet.py', '../_base_/datasets/coco_lsj.py', '../_base_/schedules/lsj_50e.py',
          '../_base_/optimizers/vitdet.py', '../_base_/hooks.py', '../_base_/runtime_det.py']
card = dict(
    paper='https://arxiv.org/abs/2203.16527', table='Tables 4 and 11',
    source='https://github.com/facebookresearch/detectron2/blob/02b5c4e/projects/ViTDet/configs/COCO/mask_rcnn_vitdet_b_100ep.py',
    init='vit-b-augreg-in21k', batch=64, per_gpu=1, schedule='92187 iterations, steps at 81944 and 88773',
    warmup='250 iterations from 0.001', lr=8e-5, weight_decay=0.1, no_weight_decay='vitdet', decay=None,
    drop_path=0.1, precision='fp16', train='1024 x 1024 times 0.1..2.0, crop 1024 x 1024', test='1024 x 1024',
    params='111M (ours)', flops='837G at 1024 x 1024 (ours)', score=dict(box=47.8, mask=42.6),
    note=(
        'Values of Table 11; no relative positions, as in Table 4. The paper does not say whose weights it '
        'took: these are AugReg, trained on images in [-1, 1] and fed with such.'))
checkpoint = 'vit-b-augreg-in21k'
model = dict(
    data_preprocessor=dict(mean=[127.5, 127.5, 127.5], std=[127.5, 127.5, 127.5]),
    backbone=dict(
        type='backbones.VisionTransformer', arch='base', with_cls_token=False, window_size=14,
        global_attn_indexes=(2, 5, 8, 11), norm_eps=1e-6, drop_path_rate=0.1,
        init_cfg=dict(type='Pretrained', checkpoint=checkpoint)),
    neck=dict(in_channels=768))
optim_wrapper = dict(optimizer=dict(lr=8e-5), paramwise_cfg=dict(decay_rate=1))
