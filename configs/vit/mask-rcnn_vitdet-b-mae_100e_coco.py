"""Mask R-CNN, ViT-B (MAE) as ViTDet, 100 epochs, COCO. Published: 51.6 box / 45.9 mask AP, 111M, 0.8T FLOPs.

https://arxiv.org/abs/2203.16527, Tables 5 and 9. Meant for 64 GPUs x 1 image (8 nodes):
torchrun --nnodes 8 --nproc_per_node 8 tools/train.py configs/vit/mask-rcnn_vitdet-b-mae_100e_coco.py --launcher pytorch
"""
_base_ = ['../_base_/models/mask_rcnn.py', '../_base_/datasets/coco_lsj.py',
          '../_base_/schedules/coco_lsj_100e.py', '../_base_/runtime_det.py']
checkpoint = 'https://dl.fbaipublicfiles.com/mae/pretrain/mae_pretrain_vit_base.pth'
norm_cfg = dict(type='backbones.LN2d', eps=1e-6)
model = dict(
    data_preprocessor=dict(pad_size_divisor=1024),
    backbone=dict(
        type='backbones.VisionTransformer', arch='base', with_cls_token=False, window_size=14,
        global_attn_indexes=(2, 5, 8, 11), rel_pos='decomposed', img_size=1024, norm_eps=1e-6, drop_path_rate=0.1,
        init_cfg=dict(type='Pretrained', checkpoint=checkpoint)),
    neck=dict(type='backbones.SimpleFPN', in_channels=768, eps=1e-6),
    rpn_head=dict(num_convs=2),
    roi_head=dict(
        bbox_head=dict(type='Shared4Conv1FCBBoxHead', conv_out_channels=256, norm_cfg=norm_cfg),
        mask_head=dict(norm_cfg=norm_cfg)),
    train_cfg=dict(rcnn=dict(assigner=dict(match_low_quality=False))))  # as detectron2's matcher of RoIs
optim_wrapper = dict(paramwise_cfg=dict(decay_rate=0.7))
