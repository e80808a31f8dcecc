"""Mask R-CNN, narrow ConvNeXt from scratch, demo data: trained by `make demo` in 3.5 minutes on two CPU cores.

python tools/train.py configs/small/mask-rcnn_convnext_demo.py
"""
_base_ = ['../_base_/models/mask_rcnn.py', '../_base_/datasets/demo_coco.py',
          '../_base_/hooks.py', '../_base_/runtime_det.py']
card = dict(
    paper=None, table=None, source=None, init=None, batch=4, per_gpu=4,
    schedule='10 epochs, cosine to 0', warmup='50 iterations from 0.01', lr=1e-3, weight_decay=0.05,
    no_weight_decay='convnext', decay=None, drop_path=0.0, precision='fp32', clip=5.0,
    train='as they are', test='160 x 128',
    params='2.3M (ours)', flops='2.9G at 128 x 160 (ours)', score=None)
dims = (24, 48, 96, 192)
width = 64
epochs = 10
model = dict(
    backbone=dict(
        type='backbones.ConvNeXt', arch=dict(depths=(2, 2, 4, 2), dims=dims), layer_scale_init_value=1.0),
    # training from scratch needs norms in neck and mask head, too
    neck=dict(in_channels=list(dims), out_channels=width, norm_cfg=dict(type='backbones.LN2d', eps=1e-6)),
    rpn_head=dict(in_channels=width, feat_channels=width, anchor_generator=dict(scales=[4])),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=width, roi_layer=dict(sampling_ratio=1)),
        mask_roi_extractor=dict(out_channels=width, roi_layer=dict(sampling_ratio=1)),
        bbox_head=dict(in_channels=width, fc_out_channels=256, num_classes=6),
        mask_head=dict(
            in_channels=width, conv_out_channels=width, num_convs=2, num_classes=6,
            norm_cfg=dict(type='BN', eps=1e-5))),
    train_cfg=dict(
        rpn=dict(sampler=dict(num=128)), rpn_proposal=dict(nms_pre=300, max_per_img=100),
        rcnn=dict(sampler=dict(num=64))),
    test_cfg=dict(rpn=dict(nms_pre=300, max_per_img=100)))
total_batch = 4
train_cfg = dict(type='backbones.EpochBasedTrainLoop', max_epochs=epochs, val_interval=epochs)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(type='CosineAnnealingLR', eta_min=0.0, by_epoch=True, begin=0, end=epochs, convert_to_iter_based=True),
]
optim_wrapper = dict(
    type='backbones.GuardedOptimWrapper', optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.05),
    clip_grad=dict(max_norm=5.0),
    constructor='backbones.LayerDecayOptimWrapperConstructor',
    paramwise_cfg=dict(decay_rate=1.0, weight_decay_rule='convnext'))
default_hooks = dict(checkpoint=dict(max_keep_ckpts=1), logger=dict(interval=40))
randomness = dict(seed=0)
