"""Mask R-CNN, Swin-T (ImageNet-1k), 3x, COCO.

torchrun --nproc_per_node 8 tools/train.py configs/baselines/mask-rcnn_swin-t-in1k_3x_coco.py --launcher pytorch
"""
_base_ = ['../_base_/models/mask_rcnn.py', '../_base_/datasets/coco_ms.py', '../_base_/schedules/coco_3x.py',
          '../_base_/optimizers/swin.py', '../_base_/hooks.py', '../_base_/runtime_det.py']
card = dict(
    paper='https://arxiv.org/abs/2103.14030', table='README',
    source='https://github.com/SwinTransformer/Swin-Transformer-Object-Detection/blob/6a979e2/configs/swin/mask_rcnn_swin_tiny_patch4_window7_mstrain_480-800_adamw_3x_coco.py',
    init='swin_tiny_patch4_window7_224.pth', batch=16, per_gpu=2, schedule='36 epochs, steps at 27 and 33',
    warmup='500 iterations from 0.001', lr=1e-4, weight_decay=0.05,
    no_weight_decay='absolute_pos_embed, norm, relative_position_bias_table',
    decay=None, drop_path=0.2, precision='fp16', train='short side 480..800, long side 1333', test='1333 x 800',
    params='48M', flops='267G at 800 x 1280', score=dict(box=46.0, mask=41.6))
checkpoint = 'https://github.com/SwinTransformer/storage/releases/download/v1.0.0/swin_tiny_patch4_window7_224.pth'
model = dict(
    backbone=dict(
        type='mmdet.SwinTransformer', embed_dims=96, depths=[2, 2, 6, 2], num_heads=[3, 6, 12, 24], window_size=7,
        drop_path_rate=0.2, patch_norm=True, convert_weights=True, norm_cfg=dict(type='LN', eps=1e-5),
        init_cfg=dict(type='Pretrained', checkpoint=checkpoint)),
    neck=dict(in_channels=[96, 192, 384, 768]))
optim_wrapper = dict(type='backbones.GuardedAmpOptimWrapper', dtype='float16')
