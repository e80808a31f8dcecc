"""Mask R-CNN, narrow ConvNeXt from scratch, learns eight COCO images by heart.

python tools/coco_subset.py data/coco_mini/annotations/instances_train2017.json data/coco8.json --images 8
python tools/train.py configs/small/mask-rcnn_convnext_coco8.py
"""
_base_ = ['../_base_/models/mask_rcnn.py', '../_base_/datasets/coco8.py',
          '../_base_/schedules/coco8.py', '../_base_/runtime_det.py']
dims = (32, 64, 128, 256)
width = 96
model = dict(
    backbone=dict(
        type='backbones.ConvNeXt', arch=dict(depths=(2, 2, 4, 2), dims=dims), layer_scale_init_value=1.0),
    neck=dict(in_channels=list(dims), out_channels=width),
    rpn_head=dict(in_channels=width, feat_channels=width),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=width), mask_roi_extractor=dict(out_channels=width),
        bbox_head=dict(in_channels=width, fc_out_channels=512),
        mask_head=dict(in_channels=width, conv_out_channels=width, num_convs=2)),
    train_cfg=dict(rpn_proposal=dict(nms_pre=500, max_per_img=300), rcnn=dict(sampler=dict(num=128))),
    test_cfg=dict(rpn=dict(nms_pre=500, max_per_img=300)))
custom_hooks = [dict(type='backbones.MetricsFileHook'), dict(type='backbones.ChannelsLastHook')]
