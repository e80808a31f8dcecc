"""Cascade Mask R-CNN, ConvNeXt-B (ImageNet-22k), 3x, COCO. Published: 54.0 box / 46.9 mask AP, 146M, 964G FLOPs.

https://arxiv.org/abs/2201.03545, Table 3. Meant for 8 GPUs x 2 images:
torchrun --nproc_per_node 8 tools/train.py configs/convnext/cascade-mask-rcnn_convnext-b-in22k_3x_coco.py \
    --launcher pytorch
"""
_base_ = ['../_base_/models/cascade_mask_rcnn.py', '../_base_/datasets/coco_ms.py',
          '../_base_/schedules/coco_3x.py', '../_base_/runtime_det.py']
checkpoint = 'https://dl.fbaipublicfiles.com/convnext/convnext_base_22k_224.pth'
model = dict(
    backbone=dict(
        type='backbones.ConvNeXt', arch='base', drop_path_rate=0.6, layer_scale_init_value=1.0,
        init_cfg=dict(type='Pretrained', checkpoint=checkpoint)),
    neck=dict(in_channels=[128, 256, 512, 1024]))
optim_wrapper = dict(optimizer=dict(lr=1e-4), paramwise_cfg=dict(decay_rate=0.8))
