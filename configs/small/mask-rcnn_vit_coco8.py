"""Mask R-CNN, narrow ViT + SimpleFPN from scratch, learns eight COCO images by heart.

python tools/coco_subset.py data/coco/annotations/instances_train2017.json data/coco8.json --ids 9 25 30 34 36 42 49 61
python tools/train.py configs/small/mask-rcnn_vit_coco8.py
"""
_base_ = ['../_base_/models/mask_rcnn.py', '../_base_/datasets/coco8.py',
          '../_base_/schedules/coco8.py', '../_base_/hooks.py', '../_base_/runtime_det.py']
card = dict(
    paper=None, table=None, source=None, init=None, batch=1, per_gpu=1,
    schedule='2200 iterations, cosine to 0', warmup='50 iterations from 0.01', lr=1e-3, weight_decay=0.05,
    no_weight_decay='matrices_only', decay=None, drop_path=0.0, precision='fp32', clip=5.0,
    train='448 x 448', test='448 x 448',
    params='4.5M (ours)', flops='8.8G at 448 x 448 (ours)', score=None)
width = 64
model = dict(
    data_preprocessor=dict(pad_value=-2.0),
    backbone=dict(
        type='backbones.VisionTransformer', arch=dict(embed_dim=192, depth=6, num_heads=6), norm_eps=1e-6,
        with_cls_token=False, pretrain_img_size=448, window_size=7, global_attn_indexes=(2, 5), rel_pos='decomposed',
        img_size=448),
    neck=dict(type='backbones.SimpleFPN', in_channels=192, out_channels=width, eps=1e-6),
    rpn_head=dict(in_channels=width, feat_channels=width),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=width, roi_layer=dict(sampling_ratio=1)),
        mask_roi_extractor=dict(out_channels=width, roi_layer=dict(sampling_ratio=1)),
        bbox_head=dict(in_channels=width, fc_out_channels=256),
        mask_head=dict(in_channels=width, conv_out_channels=width, norm_cfg=dict(type='BN', eps=1e-5))),
    train_cfg=dict(
        rpn_proposal=dict(nms_pre=500, max_per_img=200), rcnn=dict(sampler=dict(num=96, pos_fraction=0.5))),
    test_cfg=dict(rpn=dict(nms_pre=500, max_per_img=200)))
