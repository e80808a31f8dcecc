"""UperNet, ViT-B/16 (ImageNet-21k), 160k, ADE20K 512. Published: nearest is 47.73 mIoU (49.95 with --tta), see file.

The recipe and the score are those of mmsegmentation's vit-b16-ln_mln (layer norm after the last tap, no layer decay).
Two things differ: its weights were further fine-tuned on ImageNet-1k, and it normalised images with ImageNet's mean and
standard deviation; these weights were trained on images in [-1, 1]. Meant for 8 GPUs x 2 images:
torchrun --nproc_per_node 8 tools/train.py configs/vit/upernet_vit-b-in21k_160k_ade20k-512.py --launcher pytorch
https://github.com/open-mmlab/mmsegmentation/blob/main/configs/vit/vit_vit-b16-ln_mln_upernet_8xb2-160k_ade20k-512x512.py
"""
_base_ = ['../_base_/models/upernet.py', '../_base_/datasets/ade20k_512.py',
          '../_base_/schedules/ade20k_160k.py', '../_base_/runtime_seg.py']
checkpoint = 'https://huggingface.co/timm/vit_base_patch16_224.augreg_in21k/resolve/main/model.safetensors'
model = dict(
    # The AugReg weights were trained on images in [-1, 1].
    # Tested images are padded to whole patches and the logits cropped: the border would stretch them otherwise.
    data_preprocessor=dict(
        size=(512, 512), mean=[127.5] * 3, std=[127.5] * 3, test_cfg=dict(size_divisor=16)),
    backbone=dict(
        type='backbones.VisionTransformer', arch='base', out_indices=(2, 5, 8, 11), out_norm='last', norm_eps=1e-6,
        drop_path_rate=0.1, init_cfg=dict(type='Pretrained', checkpoint=checkpoint)),
    neck=dict(type='MultiLevelNeck', in_channels=[768] * 4, out_channels=768, scales=[4, 2, 1, 0.5]),
    decode_head=dict(in_channels=[768] * 4),
    auxiliary_head=dict(in_channels=768, in_index=3),
    test_cfg=dict(mode='whole'))
optim_wrapper = dict(
    optimizer=dict(lr=6e-5, weight_decay=0.01), constructor='DefaultOptimWrapperConstructor',
    paramwise_cfg=dict(custom_keys={name: dict(decay_mult=0.0) for name in ('pos_embed', 'cls_token', 'norm')}))
