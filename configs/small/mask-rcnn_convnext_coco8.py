"""Mask R-CNN, narrow ConvNeXt from scratch, learns eight COCO images by heart.

python tools/coco_subset.py data/coco/annotations/instances_train2017.json data/coco8.json --ids 9 25 30 34 36 42 49 61
python tools/train.py configs/small/mask-rcnn_convnext_coco8.py
"""
_base_ = ['../_base_/models/mask_rcnn.py', '../_base_/datasets/coco8.py',
          '../_base_/schedules/coco8.py', '../_base_/hooks.py', '../_base_/runtime_det.py']
card = dict(
    paper=None, table=None, source=None, init=None, batch=1, per_gpu=1,
    schedule='2200 iterations, cosine to 0', warmup='50 iterations from 0.01', lr=1e-3, weight_decay=0.05,
    no_weight_decay='matrices_only', decay=None, drop_path=0.0, precision='fp32', clip=5.0,
    train='448 x 448', test='448 x 448',
    params='3.3M (ours)', flops='7.1G at 448 x 448 (ours)', score=None)
dims = (32, 64, 128, 256)
width = 64
model = dict(
    data_preprocessor=dict(pad_value=-2.0),  # near black; see docs/real_images.md for what exact zeros do
    backbone=dict(
        type='backbones.ConvNeXt', arch=dict(depths=(2, 2, 4, 2), dims=dims), layer_scale_init_value=1.0),
    # training from scratch needs norms in neck and heads, too
    neck=dict(in_channels=list(dims), out_channels=width, norm_cfg=dict(type='backbones.LN2d', eps=1e-6)),
    rpn_head=dict(in_channels=width, feat_channels=width),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=width, roi_layer=dict(sampling_ratio=1)),
        mask_roi_extractor=dict(out_channels=width, roi_layer=dict(sampling_ratio=1)),
        bbox_head=dict(in_channels=width, fc_out_channels=256),
        mask_head=dict(in_channels=width, conv_out_channels=width, norm_cfg=dict(type='BN', eps=1e-5))),
    train_cfg=dict(
        rpn_proposal=dict(nms_pre=500, max_per_img=200), rcnn=dict(sampler=dict(num=96, pos_fraction=0.5))),
    test_cfg=dict(rpn=dict(nms_pre=500, max_per_img=200)))
