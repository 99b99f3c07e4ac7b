"""Boxes in an image that OpenCV has read: python detect.py output/my_coco/inference photo.jpg boxes.png"""

import sys

import cv2

from ppcls_ext import Predictor


def main() -> None:
    """Print the boxes, and draw them."""
    folder, image, picture = sys.argv[1:]
    with Predictor(folder, threshold=0.4) as predict:
        pixels = cv2.imread(image)  # a frame of a camera or of a film is such an array too
        if pixels is None:
            sys.exit(f"{image}: OpenCV cannot read it; give an image file")
        result = predict(pixels, channels="bgr")
    for label, score, (x1, y1, x2, y2) in zip(result.labels, result.scores, result.boxes, strict=True):
        print(f"{label} {score:.3f} from ({x1:.0f}, {y1:.0f}) to ({x2:.0f}, {y2:.0f})")
        corners = [(round(float(x)), round(float(y))) for x, y in ((x1, y1), (x2, y2))]
        cv2.rectangle(pixels, *corners, color=(75, 25, 230), thickness=2)
    cv2.imwrite(picture, pixels)


if __name__ == "__main__":
    main()
