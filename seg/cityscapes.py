"""Cityscapes: its 19 classes, their colours, and the numbers that its label files use.

Source: the public Cityscapes scripts (helpers/labels.py): names, trainId, id and colour of each class.
"""

from __future__ import annotations

CLASSES = (
    ("road", 7, (128, 64, 128)),
    ("sidewalk", 8, (244, 35, 232)),
    ("building", 11, (70, 70, 70)),
    ("wall", 12, (102, 102, 156)),
    ("fence", 13, (190, 153, 153)),
    ("pole", 17, (153, 153, 153)),
    ("traffic light", 19, (250, 170, 30)),
    ("traffic sign", 20, (220, 220, 0)),
    ("vegetation", 21, (107, 142, 35)),
    ("terrain", 22, (152, 251, 152)),
    ("sky", 23, (70, 130, 180)),
    ("person", 24, (220, 20, 60)),
    ("rider", 25, (255, 0, 0)),
    ("car", 26, (0, 0, 142)),
    ("truck", 27, (0, 0, 70)),
    ("bus", 28, (0, 60, 100)),
    ("train", 31, (0, 80, 100)),
    ("motorcycle", 32, (0, 0, 230)),
    ("bicycle", 33, (119, 11, 32)),
)

NAMES = tuple(name for name, _, _ in CLASSES)
COLOURS = [colour for _, _, colour in CLASSES]

IMAGE_END = "_leftImg8bit.png"
TRAIN_IDS_END = "_gtFine_labelTrainIds.png"  # 0..18 and 255; made by the Cityscapes scripts
LABEL_IDS_END = "_gtFine_labelIds.png"  # 0..33; in the download

# labelIds -> trainIds; the ids that are not evaluated are ignored.
TRAIN_ID_OF = dict.fromkeys(range(34), 255) | {label: train for train, (_, label, _) in enumerate(CLASSES)}
