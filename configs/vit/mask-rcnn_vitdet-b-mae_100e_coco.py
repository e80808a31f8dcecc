"""Mask R-CNN, ViT-B (MAE) as ViTDet, 100 epochs, COCO.

torchrun --nnodes 8 --nproc_per_node 8 tools/train.py configs/vit/mask-rcnn_vitdet-b-mae_100e_coco.py \
    --launcher pytorch
"""
_base_ = ['../_base_/models/mask_rcnn_vitdet.py', '../_base_/datasets/coco_lsj.py', '../_base_/schedules/lsj_100e.py',
          '../_base_/optimizers/vitdet.py', '../_base_/hooks.py', '../_base_/runtime_det.py']
card = dict(
    paper='https://arxiv.org/abs/2203.16527', table='Tables 5 and 9',
    source='https://github.com/facebookresearch/detectron2/blob/02b5c4e/projects/ViTDet/configs/COCO/mask_rcnn_vitdet_b_100ep.py',
    init='vit-b-mae', batch=64, per_gpu=1, schedule='184375 iterations, steps at 163889 and 177546',
    warmup='250 iterations from 0.001', lr=1e-4, weight_decay=0.1, no_weight_decay='vitdet',
    decay='layer_wise 0.7, 12 layers', drop_path=0.1, precision='fp16',
    train='1024 x 1024 times 0.1..2.0, crop 1024 x 1024', test='1024 x 1024', params='111M',
    flops='0.8T at 1024 x 1024', score=dict(box=51.6, mask=45.9))
checkpoint = 'vit-b-mae'
model = dict(
    backbone=dict(
        type='backbones.VisionTransformer', arch='base', with_cls_token=False, window_size=14,
        global_attn_indexes=(2, 5, 8, 11), rel_pos='decomposed', img_size=1024, norm_eps=1e-6, drop_path_rate=0.1,
        init_cfg=dict(type='Pretrained', checkpoint=checkpoint)),
    neck=dict(in_channels=768))
optim_wrapper = dict(paramwise_cfg=dict(decay_rate=0.7))
