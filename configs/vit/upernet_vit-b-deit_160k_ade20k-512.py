"""UperNet, ViT-B (DeiT, ImageNet-1k), 160k, ADE20K 512 x 512.

torchrun --nproc_per_node 8 tools/train.py configs/vit/upernet_vit-b-deit_160k_ade20k-512.py --launcher pytorch
"""
_base_ = ['../_base_/models/upernet.py', '../_base_/datasets/ade20k_512.py', '../_base_/schedules/ade20k_160k.py',
          '../_base_/optimizers/vit_mmseg.py', '../_base_/hooks.py', '../_base_/runtime_seg.py']
card = dict(
    paper='https://github.com/open-mmlab/mmsegmentation/blob/v1.2.2/configs/vit/README.md',
    table='vit_deit-b16_mln',
    source='https://github.com/open-mmlab/mmsegmentation/blob/v1.2.2/configs/vit/vit_deit-b16_mln_upernet_8xb2-160k_ade20k-512x512.py',
    init='deit-b', batch=16, per_gpu=2, schedule='160000 iterations, poly 1.0 to 0',
    warmup='1500 iterations from 1e-06', lr=6e-5, weight_decay=0.01, no_weight_decay='cls_token, pos_embed',
    decay=None, drop_path=0.1, precision='fp32', train='2048 x 512 times 0.5..2.0, crop 512 x 512',
    test='2048 x 512, whole', params='144M (ours)', flops='443G at 512 x 512 (ours)',
    score=dict(mIoU=45.46, mIoU_ms=47.16),
    note=(
        "Tested images are padded to whole patches; the source stretches the border instead. The source's "
        'rule to spare norms from weight decay matches none of its names, so they are decayed here, too.'))
checkpoint = 'deit-b'
model = dict(
    data_preprocessor=dict(size=(512, 512), test_cfg=dict(size_divisor=16)),
    backbone=dict(
        type='backbones.VisionTransformer', arch='base', out_indices=(2, 5, 8, 11), norm_eps=1e-6, drop_path_rate=0.1,
        init_cfg=dict(type='Pretrained', checkpoint=checkpoint)),
    neck=dict(type='MultiLevelNeck', in_channels=[768] * 4, out_channels=768, scales=[4, 2, 1, 0.5]),
    decode_head=dict(in_channels=[768] * 4), auxiliary_head=dict(in_channels=768, in_index=3),
    test_cfg=dict(mode='whole'))
optim_wrapper = dict(optimizer=dict(lr=6e-5))
