"""CIFAR-10, CIFAR-100 or Fashion-MNIST as data=npz reads them, whole or a part: train.npz, val.npz and test.npz.

    python scripts/make_npz.py cifar10 CIFAR --path data --download            # 45,000 + 5,000, and the test part
    python scripts/make_npz.py cifar10 CIFAR --path data --train 10000         # the first 10,000 for training

`val` is the last images of the official training part, `test` its official test part. For images of your own, write the
three files with numpy.savez: `images`, uint8 (N, H, W) or (N, H, W, C), and `labels`, whole numbers (N,).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from lpt.data.downloads import SETS, official
from lpt.errors import UserError
from lpt.places import place


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=sorted(SETS))
    parser.add_argument("out", type=place, help="folder of the three files")
    parser.add_argument("--path", default="data", help="where the set is, or goes")
    parser.add_argument("--download", action="store_true", help="fetch it if it is not there")
    parser.add_argument("--train", type=int, help="only so many training images, the first ones")
    parser.add_argument("--val", type=int, default=5000, help="training images that are val, the last ones")
    args = parser.parse_args(arguments)
    try:
        images, labels = official(args.name, args.path, True, args.download)
        test = official(args.name, args.path, False, args.download)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    rest = len(labels) - args.val
    count = rest if args.train is None else args.train
    if not 0 < args.val < len(labels) or not 0 < count <= rest:
        print(f"error: --train and --val must be above 0, and at most {len(labels)} together", file=sys.stderr)
        return 2
    args.out.mkdir(parents=True, exist_ok=True)
    parts = {"train": (images[:count], labels[:count]), "val": (images[rest:], labels[rest:]), "test": test}
    for part, (pixels, classes) in parts.items():
        np.savez(args.out / f"{part}.npz", images=pixels.permute(0, 2, 3, 1).numpy(), labels=classes.numpy())
        print(f"{args.out / part}.npz: {len(classes)} images")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
