"""Linear head, frozen ViT-B (DINOv3), 40k, ADE20K 512 x 512.

torchrun --nproc_per_node 8 tools/train.py configs/vit/linear_vit-b-dinov3_40k_ade20k-512.py --launcher pytorch
"""
_base_ = ['../_base_/models/linear.py', '../_base_/datasets/ade20k_512.py',
          '../_base_/schedules/ade20k_40k_cosine.py', '../_base_/hooks.py', '../_base_/runtime_seg.py']
card = dict(
    paper='https://arxiv.org/abs/2508.10104', table='model card',
    source='https://github.com/facebookresearch/dinov3/blob/6876159/dinov3/eval/segmentation/configs/config-ade20k-linear-training.yaml',
    init='dinov3-vitb16', batch=16, per_gpu=2, schedule='40000 iterations, cosine to 0',
    warmup='1500 iterations from 1e-06', lr=1e-3, weight_decay=1e-3, no_weight_decay=None, decay=None, drop_path=0.0,
    precision='fp32', frozen=True, train='2048 x 512 times 0.5..2.0, crop 512 x 512',
    test='2048 x 512, slide 512 x 512 by 341 x 341', params='86M (ours)', flops='108G at 512 x 512 (ours)',
    score=dict(mIoU=51.8),
    note=(
        'The source has no limit for the long side, and draws hues from a wider range. Read in copies of '
        'the config file. Gated download.'))
model = dict(
    data_preprocessor=dict(size=(512, 512)),
    backbone=dict(
        type='backbones.VisionTransformer', arch='base', position='rope', num_registers=4, qkv_bias='qv',
        layer_scale_init_value=1e-5, norm_eps=1e-5, out_norm='last', frozen_stages=12,
        init_cfg=dict(type='Pretrained', checkpoint='dinov3-vitb16')),
    decode_head=dict(in_channels=768, dropout_ratio=0.1),
    test_cfg=dict(mode='slide', crop_size=(512, 512), stride=(341, 341)))
optim_wrapper = dict(
    type='backbones.GuardedOptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-3, betas=(0.9, 0.999), weight_decay=1e-3))
