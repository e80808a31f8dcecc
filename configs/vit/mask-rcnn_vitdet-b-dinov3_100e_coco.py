"""Mask R-CNN, ViT-B (DINOv3, global attention) as ViTDet, 100 epochs, COCO.

torchrun --nnodes 8 --nproc_per_node 8 tools/train.py configs/vit/mask-rcnn_vitdet-b-dinov3_100e_coco.py \
    --launcher pytorch
"""
_base_ = ['../_base_/models/mask_rcnn_vitdet.py', '../_base_/datasets/coco_lsj.py', '../_base_/schedules/lsj_100e.py',
          '../_base_/optimizers/vitdet.py', '../_base_/hooks.py', '../_base_/runtime_det.py']
card = dict(
    paper=None, table=None, source=None, init='dinov3-vitb16', batch=64, per_gpu=1,
    schedule='184375 iterations, steps at 163889 and 177546', warmup='250 iterations from 0.001', lr=1e-4,
    weight_decay=0.1, no_weight_decay='vitdet', decay='layer_wise 0.7, 12 layers', drop_path=0.1, precision='fp16',
    train='1024 x 1024 times 0.1..2.0, crop 1024 x 1024', test='1024 x 1024', params='111M (ours)',
    flops='1018G at 1024 x 1024 (ours)', score=None,
    note=(
        'No score was published. Weights of https://arxiv.org/abs/2508.10104 in the MAE recipe. This '
        'backbone has rotary positions for global attention only, so every block is global, and recomputed '
        'in the backward pass; the final norm of the weights is kept. Gated download.'))
checkpoint = 'dinov3-vitb16'
model = dict(
    backbone=dict(
        type='backbones.VisionTransformer', arch='base', position='rope', num_registers=4, qkv_bias='qv',
        layer_scale_init_value=1e-5, out_norm='last', with_cp=True, norm_eps=1e-5, drop_path_rate=0.1,
        init_cfg=dict(type='Pretrained', checkpoint=checkpoint)),
    neck=dict(in_channels=768))
optim_wrapper = dict(paramwise_cfg=dict(decay_rate=0.7))
