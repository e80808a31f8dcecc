"""What belongs to the data sets of the configs: the official archives, what is in them, and how to tell it is whole."""

from __future__ import annotations

from dataclasses import dataclass, field

GIB = 2**30


@dataclass(frozen=True)
class Archive:
    """One zip file of the publisher.

    Args:
        url: official address; its last part is the file's name.
        digests: hash name of hashlib -> hexadecimal digits. One of them must be right: where there are two, they come
            from two sources, and a file with the right one is not found by chance.
        wanted: regular expression of the members that are unpacked; they keep their path.
        fills: those of the data set's `pictures` and `files` that come from here.
        unpacked: bytes of these members, roughly, for the look at the disk.
        most: bytes that all members may have together; more is refused as a bomb.
        size: bytes, None where no source states it.
        about: bytes, roughly, where `size` is None.
    """

    url: str
    digests: dict[str, str]
    wanted: str
    fills: tuple[str, ...]
    unpacked: int
    most: int
    size: int | None = None
    about: int = 0

    @property
    def name(self) -> str:
        return self.url.rpartition('/')[2]


@dataclass(frozen=True)
class DataSet:
    """A data set that configs name.

    Args:
        title: for messages.
        folder: below the root, 'coco'.
        archives: what it is unpacked from.
        pictures: folder below `folder` -> (suffix, number of files).
        files: other files that must be there.
        home: page of the publisher.
        check: folder below the root that `tools/check_data.py` is given.
        config: a recipe that trains on it.
    """

    title: str
    folder: str
    archives: tuple[Archive, ...]
    pictures: dict[str, tuple[str, int]]
    files: tuple[str, ...]
    home: str
    check: str
    config: str
    tops: tuple[str, ...] = field(init=False)  # the first parts of all these paths

    def __post_init__(self) -> None:
        tops = dict.fromkeys(path.partition('/')[0] for path in (*self.pictures, *self.files))
        object.__setattr__(self, 'tops', tuple(tops))


# Sizes and SHA-256 of the three archives of COCO:
# https://github.com/tensorflow/datasets/blob/333639b37af6c6fedf3610a4a2d42f1c6ef6f7d5/tensorflow_datasets/url_checksums/coco.txt
# Numbers of pictures: https://cocodataset.org/#download (118K, 5K) and the 'images' of the annotation files.
COCO2017 = DataSet(
    title='COCO 2017',
    folder='coco',
    archives=(
        Archive(
            url='http://images.cocodataset.org/annotations/annotations_trainval2017.zip',
            size=252907541,
            digests=dict(sha256='113a836d90195ee1f884e704da6304dfaaecff1f023f49b6ca93c4aaae470268'),
            wanted=r'annotations/instances_(train|val)2017\.json',
            fills=('annotations/instances_train2017.json', 'annotations/instances_val2017.json'),
            unpacked=500_000_000,
            most=4 * GIB,
        ),
        Archive(
            url='http://images.cocodataset.org/zips/val2017.zip',
            size=815585330,
            digests=dict(sha256='4f7e2ccb2866ec5041993c9cf2a952bbed69647b115d0f74da7ce8f4bef82f05'),
            wanted=r'val2017/\d{12}\.jpg',
            fills=('val2017',),
            unpacked=830_000_000,
            most=2 * GIB,
        ),
        Archive(
            url='http://images.cocodataset.org/zips/train2017.zip',
            size=19336861798,
            digests=dict(sha256='69a8bb58ea5f8f99d24875f21416de2e9ded3178e903f1f7603e283b9e06d929'),
            wanted=r'train2017/\d{12}\.jpg',
            fills=('train2017',),
            unpacked=19_500_000_000,
            most=30 * GIB,
        ),
    ),
    pictures={'train2017': ('.jpg', 118287), 'val2017': ('.jpg', 5000)},
    files=('annotations/instances_train2017.json', 'annotations/instances_val2017.json'),
    home='https://cocodataset.org/#download',
    check='coco',
    config='configs/convnext/mask-rcnn_convnext-t-in1k_3x_coco.py',
)

# No source was found for the size of the archive in bytes or its SHA-256, but two for other hashes. SHA-1:
# https://github.com/dmlc/gluon-cv/blob/0cc699cfd3ec2c3f3f7de6ca0016c79fb66606ec/scripts/datasets/ade20k.py; MD5:
# https://github.com/paperswithcode/torchbench/blob/c1b10835c45b1b6c83f4f5ea7711314ab567211c/torchbench/datasets/ade20k.py
# Numbers of pictures, and the annotations: http://sceneparsing.csail.mit.edu
ADE20K = DataSet(
    title='ADE20K (scene parsing, 150 classes)',
    folder='ade',
    archives=(
        Archive(
            url='http://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip',
            about=970_000_000,
            digests=dict(
                sha1='219e1696abb36c8ba3a3afe7fb2f4b4606a897c7',
                md5='7328b3957e407ddae1d3cbf487f149ef',
            ),
            wanted=r'ADEChallengeData2016/((images|annotations)/(training|validation)/\w+\.(jpg|png)|\w+\.txt)',
            fills=tuple(
                f'ADEChallengeData2016/{kind}/{part}'
                for kind in ('images', 'annotations') for part in ('training', 'validation')
            ),
            unpacked=1_000_000_000,
            most=4 * GIB,
        ),
    ),
    pictures={
        'ADEChallengeData2016/images/training': ('.jpg', 20210),
        'ADEChallengeData2016/images/validation': ('.jpg', 2000),
        'ADEChallengeData2016/annotations/training': ('.png', 20210),
        'ADEChallengeData2016/annotations/validation': ('.png', 2000),
    },
    files=(),
    home='http://sceneparsing.csail.mit.edu',
    check='ade/ADEChallengeData2016',
    config='configs/convnext/upernet_convnext-t-in1k_160k_ade20k-512.py',
)

DATA_SETS = dict(coco2017=COCO2017, ade20k=ADE20K)
