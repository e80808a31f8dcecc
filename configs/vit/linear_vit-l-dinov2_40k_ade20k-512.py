"""Linear head, frozen ViT-L/14 (DINOv2), 40k, ADE20K 512 x 512.

torchrun --nproc_per_node 8 tools/train.py configs/vit/linear_vit-l-dinov2_40k_ade20k-512.py --launcher pytorch
"""
_base_ = ['../_base_/models/linear.py', '../_base_/datasets/ade20k_512.py',
          '../_base_/schedules/ade20k_40k.py', '../_base_/hooks.py', '../_base_/runtime_seg.py']
card = dict(
    paper='https://arxiv.org/abs/2304.07193', table='Table 10',
    source='https://github.com/facebookresearch/dinov2/blob/0cb13e0/notebooks/semantic_segmentation.ipynb',
    init='dinov2-vitl14', batch=16, per_gpu=2, schedule='40000 iterations, poly 1.0 to 0',
    warmup='1500 iterations from 1e-06', lr=1e-3, weight_decay=1e-4, no_weight_decay=None, decay=None, drop_path=0.0,
    precision='fp32', frozen=True, train='2048 x 512 times 0.5..2.0, crop 512 x 512',
    test='2048 x 512, slide 518 x 518 by 341 x 341', params='305M (ours)', flops='507G at 518 x 518 (ours)',
    score=dict(mIoU=47.7),
    note=(
        'Crops of 512 are padded to 518, 37 patches, with ignored labels at two sides; the source pads all '
        'four and stretches the result, and has no limit for the long side. Read in copies of the config '
        'file, which is not in its repository.'))
model = dict(
    data_preprocessor=dict(size=(518, 518), test_cfg=dict(size_divisor=14)),
    backbone=dict(
        type='backbones.VisionTransformer', arch='large', patch_size=14, pretrain_img_size=518,
        pos_interpolation='bicubic_offset', layer_scale_init_value=1.0, norm_eps=1e-6, out_norm='last',
        frozen_stages=24, init_cfg=dict(type='Pretrained', checkpoint='dinov2-vitl14')),
    decode_head=dict(in_channels=1024, dropout_ratio=0),
    test_cfg=dict(mode='slide', crop_size=(518, 518), stride=(341, 341)))
optim_wrapper = dict(
    type='backbones.GuardedOptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-3, betas=(0.9, 0.999), weight_decay=1e-4))
