"""UperNet, ViT-B (ImageNet-21k), recipe of mmsegmentation, 160k, ADE20K 512 x 512.

torchrun --nproc_per_node 8 tools/train.py configs/vit/upernet_vit-b-in21k-mmseg_160k_ade20k-512.py --launcher pytorch
"""
_base_ = ['../_base_/models/upernet.py', '../_base_/datasets/ade20k_512.py', '../_base_/schedules/ade20k_160k.py',
          '../_base_/optimizers/vit_mmseg.py', '../_base_/hooks.py', '../_base_/runtime_seg.py']
card = dict(
    paper='https://github.com/open-mmlab/mmsegmentation/blob/v1.2.2/configs/vit/README.md',
    table='vit_vit-b16-ln_mln',
    source='https://github.com/open-mmlab/mmsegmentation/blob/v1.2.2/configs/vit/vit_vit-b16-ln_mln_upernet_8xb2-160k_ade20k-512x512.py',
    init='vit-b-augreg-in21k', batch=16, per_gpu=2, schedule='160000 iterations, poly 1.0 to 0',
    warmup='1500 iterations from 1e-06', lr=6e-5, weight_decay=0.01, no_weight_decay='cls_token, pos_embed',
    decay=None, drop_path=0.1, precision='fp32', train='2048 x 512 times 0.5..2.0, crop 512 x 512',
    test='2048 x 512, whole', params='144M (ours)', flops='443G at 512 x 512 (ours)', score=dict(nearest=47.73),
    note=(
        'The score (49.95 with --tta) is that of weights fine-tuned once more on ImageNet-1k, with images '
        'normalised by the mean and deviation of ImageNet; these were trained on images in [-1, 1] and are '
        'fed with such.'))
checkpoint = 'vit-b-augreg-in21k'
model = dict(
    data_preprocessor=dict(size=(512, 512), mean=[127.5] * 3, std=[127.5] * 3, test_cfg=dict(size_divisor=16)),
    backbone=dict(
        type='backbones.VisionTransformer', arch='base', out_indices=(2, 5, 8, 11), out_norm='last', norm_eps=1e-6,
        drop_path_rate=0.1, init_cfg=dict(type='Pretrained', checkpoint=checkpoint)),
    neck=dict(type='MultiLevelNeck', in_channels=[768] * 4, out_channels=768, scales=[4, 2, 1, 0.5]),
    decode_head=dict(in_channels=[768] * 4), auxiliary_head=dict(in_channels=768, in_index=3),
    test_cfg=dict(mode='whole'))
optim_wrapper = dict(optimizer=dict(lr=6e-5))
