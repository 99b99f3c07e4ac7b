"""The class of each pixel, from an image's bytes: python segment.py output/my_masks/inference photo.jpg mask.png"""

import sys
from pathlib import Path

import cv2

from ppcls_ext import Predictor


def main() -> None:
    """Print the share of each class, and write the class map."""
    folder, image, mask = sys.argv[1:]
    content = Path(image).read_bytes()  # as a request to a server has it
    with Predictor(folder) as predict:
        future = predict.submit(content)  # other threads may submit too: what waits together runs as one batch
        result = future.result()
    for label, share in zip(result.labels, result.scores, strict=True):
        print(f"{label} {share:.1%}")
    cv2.imwrite(mask, result.mask)  # uint8, the size of the image: the number of each pixel's class


if __name__ == "__main__":
    main()
