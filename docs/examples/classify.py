"""The classes of images: python classify.py output/my_images/inference photo.jpg more/*.jpg"""

import sys

from ppcls_ext import Predictor


def main() -> None:
    """Print the three likeliest classes of each image."""
    folder, *images = sys.argv[1:]
    with Predictor(folder, topk=3, errors="keep") as predict:
        for result in predict.stream(images):  # any number: they are read as they are needed
            if not result.ok:
                print(result.error, file=sys.stderr)
                continue
            named = zip(result.labels, result.scores, strict=True)
            print(result.source, ", ".join(f"{label} {score:.3f}" for label, score in named))


if __name__ == "__main__":
    main()
