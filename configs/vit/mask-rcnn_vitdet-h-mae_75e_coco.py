"""Mask R-CNN, ViT-H (MAE) as ViTDet, 75 epochs, COCO.

torchrun --nnodes 8 --nproc_per_node 8 tools/train.py configs/vit/mask-rcnn_vitdet-h-mae_75e_coco.py \
    --launcher pytorch
"""
_base_ = ['../_base_/models/mask_rcnn_vitdet.py', '../_base_/datasets/coco_lsj.py', '../_base_/schedules/lsj_75e.py',
          '../_base_/optimizers/vitdet.py', '../_base_/hooks.py', '../_base_/runtime_det.py']
card = dict(
    paper='https://arxiv.org/abs/2203.16527', table='Tables 5 and 9',
    source='https://github.com/facebookresearch/detectron2/blob/02b5c4e/projects/ViTDet/configs/COCO/mask_rcnn_vitdet_h_75ep.py',
    init='mae_pretrain_vit_huge_p14to16.pth', batch=64, per_gpu=1,
    schedule='138281 iterations, steps at 122916 and 133159', warmup='250 iterations from 0.001', lr=1e-4,
    weight_decay=0.1, no_weight_decay='vitdet_huge', decay='layer_wise 0.9, 32 layers', drop_path=0.5,
    precision='fp16', train='1024 x 1024 times 0.1..2.0, crop 1024 x 1024', test='1024 x 1024', params='662M',
    flops='3.4T at 1024 x 1024', score=dict(box=56.7, mask=50.1))
checkpoint = 'https://dl.fbaipublicfiles.com/detectron2/ImageNetPretrained/MAE/mae_pretrain_vit_huge_p14to16.pth'
model = dict(
    backbone=dict(
        type='backbones.VisionTransformer', arch='huge', with_cls_token=False, window_size=14,
        global_attn_indexes=(7, 15, 23, 31), rel_pos='decomposed', img_size=1024, norm_eps=1e-6, drop_path_rate=0.5,
        init_cfg=dict(type='Pretrained', checkpoint=checkpoint)),
    neck=dict(in_channels=1280))
optim_wrapper = dict(paramwise_cfg=dict(decay_rate=0.9, weight_decay_rule='vitdet_huge'))
