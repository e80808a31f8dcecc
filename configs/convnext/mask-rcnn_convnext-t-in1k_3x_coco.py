"""Mask R-CNN, ConvNeXt-T (ImageNet-1k), 3x, COCO. Published: 46.2 box / 41.7 mask AP, 48M parameters, 262G FLOPs.

https://arxiv.org/abs/2201.03545, Table 3. Meant for 8 GPUs x 2 images:
torchrun --nproc_per_node 8 tools/train.py configs/convnext/mask-rcnn_convnext-t-in1k_3x_coco.py --launcher pytorch
"""
_base_ = ['../_base_/models/mask_rcnn.py', '../_base_/datasets/coco_ms.py',
          '../_base_/schedules/coco_3x.py', '../_base_/runtime_det.py']
checkpoint = 'https://dl.fbaipublicfiles.com/convnext/convnext_tiny_1k_224.pth'
model = dict(
    backbone=dict(
        type='backbones.ConvNeXt', arch='tiny', drop_path_rate=0.4, layer_scale_init_value=1.0,
        init_cfg=dict(type='Pretrained', checkpoint=checkpoint)),
    neck=dict(in_channels=[96, 192, 384, 768]))
optim_wrapper = dict(optimizer=dict(lr=1e-4), paramwise_cfg=dict(decay_rate=0.95))
