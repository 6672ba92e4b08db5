"""Data sets and batches: what they hold, that they depend on nothing but their seeds, and every mistake of a user's."""

import gzip
import os
import runpy
import shutil
import struct
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lpt.data import Augment, Batches, Images, digits, downloads, folder, npz
from lpt.errors import UserError

SHARED = Path(os.environ.get("LPT_SHARED", Path(__file__).resolve().parents[2] / "shared"))


def shared(path: str) -> Path:
    if not (SHARED / path).exists():
        pytest.skip(f"the shared data {path} is not beside the repository (set LPT_SHARED)")
    return SHARED / path


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(n: int = 24, size: int = 6, channels: int = 3, augment: Augment | None = None) -> Images:
    pixels = torch.randint(256, (n, channels, size, size), dtype=torch.uint8, generator=generator())
    return Images(pixels, torch.arange(n), (torch.full((channels,), 0.5), torch.full((channels,), 0.25)), augment)


# -- digits ----------------------------------------------------------------------------------------------------------


def test_digits_are_whole_and_split_by_class() -> None:
    data = digits()
    assert (data.classes, data.shape, len(data.train), len(data.val)) == (10, (1, 8, 8), 1442, 355)
    x, y = data.train.batch(torch.arange(1442), None)
    assert x.dtype == torch.float32 and y.dtype == torch.int64 and x.shape == (1442, 1, 8, 8)
    assert abs(float(x.mean())) < 1e-4 and abs(float(x.std()) - 1) < 1e-3
    val = data.val.batch(torch.arange(355), None)[1]
    assert torch.bincount(val).min() >= 34 and torch.bincount(val).max() <= 36


def test_digits_agree_with_scikit_learn_pixel_by_pixel() -> None:
    from sklearn.datasets import load_digits

    pixels, target = load_digits(return_X_y=True)
    data = digits(mean=[0.0], std=[1.0])
    held_out = np.zeros(len(target), dtype=bool)
    for label in range(10):
        held_out[np.flatnonzero(target == label)[4::5]] = True
    for split, chosen in ((data.train, ~held_out), (data.val, held_out)):
        x, y = split.batch(torch.arange(len(split)), None)
        np.testing.assert_allclose(x.reshape(-1, 64).numpy() * 255 / 15, pixels[chosen], atol=1e-5)
        np.testing.assert_array_equal(y.numpy(), target[chosen])


def test_digits_enlarged() -> None:
    small, large = digits(mean=[0.0], std=[1.0]), digits(enlarge=4, mean=[0.0], std=[1.0])
    assert large.shape == (1, 32, 32)
    images = large.val.images
    assert all(torch.equal(images[:, :, i::4, j::4], small.val.images) for i in range(4) for j in range(4))
    for bad in (0, 1.5):
        with pytest.raises(UserError, match=f"data.enlarge={bad}: give a whole number"):
            digits(enlarge=bad)


def test_train_limit_takes_the_first_images() -> None:
    few, all_ = digits(train_limit=100, mean=[0.3], std=[0.3]), digits(mean=[0.3], std=[0.3])
    assert len(few.train) == 100 and len(few.val) == len(all_.val)
    first = torch.arange(100)
    assert torch.equal(few.train.batch(first, None)[0], all_.train.batch(first, None)[0])


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"train_limit": 0}, "train_limit=0"),
        ({"train_limit": True}, "train_limit=True"),
        ({"train_limit": 5000}, "1442 training images"),
        ({"mean": [0.5, 0.5]}, "one per channel"),
        ({"mean": [0.5], "std": [0.0]}, "above 0"),
        ({"mean": "half"}, "not a list of numbers"),
        ({"std": 0.5}, "not a list of numbers"),
        ({"crop_padding": -1}, "crop_padding=-1"),
    ],
)
def test_digits_refuse(arguments: dict, says: str) -> None:
    with pytest.raises(UserError, match=says):
        digits(**arguments)


# -- augmentation ----------------------------------------------------------------------------------------------------


def test_every_augmented_image_is_a_shifted_or_mirrored_original() -> None:
    split = images(n=64)
    made = Augment(crop_padding=2, flip=True)(split.images, generator())
    padded = torch.nn.functional.pad(split.images, [2] * 4)
    seen = set()
    for image, around in zip(made, padded, strict=True):
        found = [
            (top, left, mirrored)
            for top in range(5)
            for left in range(5)
            for mirrored, given in ((False, image), (True, image.flip(-1)))
            if torch.equal(around[:, top : top + 6, left : left + 6], given)
        ]
        assert found
        seen.add(found[0])
    assert len(seen) > 20  # of 50 possible ones


def test_no_augmentation_without_a_generator_and_none_when_switched_off() -> None:
    split = images(augment=Augment(crop_padding=2, flip=True))
    indices = torch.tensor([3, 1, 4])
    plain = (split.images[indices].float() / 255 - 0.5) / 0.25
    assert torch.equal(split.batch(indices, None)[0], plain)
    assert torch.equal(images(augment=Augment()).batch(indices, generator())[0], plain)
    assert not torch.equal(split.batch(indices, generator())[0], plain)
    assert torch.equal(split.batch(indices, generator())[0], split.batch(indices, generator())[0])


def test_a_split_moves_to_a_device() -> None:
    split = images(augment=Augment(crop_padding=1)).to("meta")
    assert split.batch(torch.arange(4), generator())[0].device.type == "meta"


# -- batches ---------------------------------------------------------------------------------------------------------


def batches(n: int = 24, size: int = 5, **more: object) -> Batches:
    return Batches(images(n, augment=Augment(1, True)), size, **{"shuffle": True, "seed": 7, **more})  # type: ignore[arg-type]


def same(a: list, b: list) -> bool:
    return len(a) == len(b) and all(torch.equal(p[i], q[i]) for p, q in zip(a, b, strict=True) for i in (0, 1))


def test_an_epoch_holds_every_image_once() -> None:
    loader = batches()
    assert len(loader) == 5 and sorted(torch.cat([y for _, y in loader]).tolist()) == list(range(24))
    assert [len(y) for _, y in batches(drop_last=True)] == [5] * 4
    assert [y.tolist() for _, y in batches(n=4, size=3, shuffle=False)] == [[0, 1, 2], [3]]


def test_batches_depend_on_seed_epoch_and_position_only() -> None:
    loader, other = batches(), batches()
    zero = list(loader)
    loader.set_epoch(1)
    one = list(loader)
    assert not same(zero, one) and not same(zero, list(batches(seed=8)))
    torch.manual_seed(123)
    other.set_epoch(1)
    assert same(list(other), one)
    other.start = 3
    assert same(list(other), one[3:])
    assert same(list(other), one)  # `start` counts once
    other.start = 2
    other.set_epoch(0)
    assert same(list(other), zero)  # and not for another epoch
    assert [y.tolist() for _, y in zero] == [i.tolist() for i in loader.indices(0)]


@pytest.mark.parametrize("stop", range(6))
def test_state_resumes_after_any_batch(stop: int) -> None:
    loader = batches()
    loader.set_epoch(3)
    whole = list(loader)
    running = iter(loader)
    seen = [next(running) for _ in range(stop)]
    state = loader.state_dict()
    fresh = batches()
    fresh.load_state_dict(state)
    if stop == len(loader):
        assert fresh.epoch == 4 and fresh.state_dict() == {"epoch": 4, "position": 0}
        assert len(list(fresh)) == 5
    else:
        fresh.set_epoch(3)  # what Lightning does before the first batch
        assert fresh.state_dict()["position"] == (stop if stop else 0)
        assert same(seen + list(fresh), whole)


def test_the_iterator_waits_for_the_epoch_until_the_first_batch() -> None:
    loader, wanted = batches(), batches()
    early = iter(loader)
    loader.set_epoch(2)
    wanted.set_epoch(2)
    assert same(list(early), list(wanted))


def test_ranks_share_the_batches_of_one_rank() -> None:
    single, parts = list(batches(drop_last=True)), [list(batches(rank=r, world=2, drop_last=True)) for r in (0, 1)]
    assert same([batch for pair in zip(*parts, strict=True) for batch in pair], single)


@pytest.mark.parametrize("n", [1, 2, 3, 7, 8, 9, 23])
def test_ranks_have_as_many_batches_and_see_everything(n: int) -> None:
    parts = [list(batches(n=n, size=4, rank=r, world=3, shuffle=False)) for r in range(3)]
    assert len({len(part) for part in parts}) == 1 and all(len(y) for part in parts for _, y in part)
    seen = torch.cat([y for part in parts for _, y in part])
    assert set(seen.tolist()) == set(range(n)) and len(seen) - n <= 2


def test_lightning_takes_the_loader_as_stateful() -> None:
    from lightning_fabric.utilities.data import _set_sampler_epoch
    from lightning_fabric.utilities.types import _Stateful

    loader = batches()
    _set_sampler_epoch(loader, 5)
    assert loader.epoch == 5 and isinstance(loader, _Stateful)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"size": 0}, "batch_size=0"),
        ({"size": 25, "drop_last": True}, "do not fill"),
        ({"rank": 2, "world": 2}, "rank=2"),
    ],
)
def test_batches_refuse(arguments: dict, says: str) -> None:
    with pytest.raises(UserError, match=says):
        batches(**arguments)


# -- npz -------------------------------------------------------------------------------------------------------------


def write_npz(where: Path, **changes: dict) -> Path:
    random = np.random.default_rng(0)
    for name, n in (("train", 12), ("val", 6)):
        arrays = {
            "images": random.integers(0, 256, (n, 5, 4, 3), dtype=np.uint8),
            "labels": np.arange(n) % 3,
            **changes.get(name, {}),
        }
        np.savez(where / f"{name}.npz", **{key: value for key, value in arrays.items() if value is not None})
    return where


def test_npz_reads_colour_grey_and_test(tmp_path: Path) -> None:
    data = npz(str(write_npz(tmp_path)))
    assert (data.shape, data.classes, len(data.train), len(data.val), data.test) == ((3, 5, 4), 3, 12, 6, None)
    stored = np.load(tmp_path / "train.npz")["images"]
    assert torch.equal(data.train.images.permute(0, 2, 3, 1), torch.from_numpy(stored))  # type: ignore[attr-defined]
    x = data.train.batch(torch.arange(12), None)[0]
    assert x.mean((0, 2, 3)).abs().max() < 1e-5 and (x.var((0, 2, 3), correction=0) - 1).abs().max() < 1e-5
    grey = {"images": np.zeros((6, 5, 4), dtype=np.uint8)}
    write_npz(tmp_path, train={"images": np.zeros((12, 5, 4), dtype=np.uint8)}, val=grey)
    np.savez(tmp_path / "test.npz", labels=np.zeros(6, dtype=np.uint8), **grey)
    data = npz(str(tmp_path), classes=5, train_limit=7)
    assert data.test is not None
    assert (data.shape, data.classes, len(data.train), len(data.test)) == ((1, 5, 4), 5, 7, 6)
    assert torch.isfinite(data.train.batch(torch.arange(7), None)[0]).all()  # one grey level has no deviation


GREY = np.zeros((12, 5, 4), dtype=np.uint8)
BAD_ARRAYS = {
    "no images": ({"train": {"images": None}}, "lacks an array"),
    "no labels": ({"val": {"labels": None}}, r"val.npz lacks an array"),
    "float images": ({"train": {"images": GREY / 1.0}}, "must be uint8"),
    "flat images": ({"train": {"images": GREY[0]}}, "must be uint8"),
    "float labels": ({"train": {"labels": np.zeros(12)}}, "must be integers"),
    "too few labels": ({"train": {"labels": np.zeros(11, dtype=int)}}, "one per image"),
    "label pairs": ({"train": {"labels": np.zeros((12, 2), dtype=int)}}, "one per image"),
    "objects": ({"train": {"labels": np.array([{}] * 12)}}, "cannot be read"),
    "negative label": ({"train": {"labels": np.arange(12) - 1}}, "labels run from -1"),
    "label beyond": ({"val": {"labels": np.full(6, 3)}}, r"val.npz: labels run from 3 to 3"),
    "other shape": ({"val": {"images": np.zeros((6, 5, 5, 3), dtype=np.uint8)}}, "those of train.npz"),
    "none": ({"val": {"images": GREY[:0], "labels": np.zeros(0, dtype=int)}}, "holds no image"),
    "no pixels": ({"val": {"images": np.zeros((6, 0, 4), dtype=np.uint8)}}, "holds no image"),
}


@pytest.mark.parametrize("case", BAD_ARRAYS)
def test_npz_refuses_arrays(tmp_path: Path, case: str) -> None:
    changes, says = BAD_ARRAYS[case]
    with pytest.raises(UserError, match=says):
        npz(str(write_npz(tmp_path, **changes)))


def test_npz_refuses_classes_that_are_too_few(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"the 2 classes are 0 \.\. 1"):
        npz(str(write_npz(tmp_path)), classes=2)


def test_npz_refuses_missing_and_damaged_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a folder"):
        npz(str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match=r"train.npz is missing"):
        npz(str(tmp_path))
    file = write_npz(tmp_path) / "train.npz"
    content = file.read_bytes()
    middle = len(content) // 3
    damaged = content[:middle] + bytes(255 - b for b in content[middle : middle + 9]) + content[middle + 9 :]
    single = tmp_path / "single.npy"
    np.save(single, GREY)
    for bad in (b"", b"no archive", content[: len(content) // 2], damaged, single.read_bytes()):
        file.write_bytes(bad)
        with pytest.raises(UserError, match=r"train.npz"):
            npz(str(tmp_path))


def test_cifar10_of_the_shared_data(tmp_path: Path) -> None:
    labels = np.load(shared("data/cifar10/test1000_labels.npy")).astype(np.int64)
    script = shared("tools/cifar10_npz.py")
    pixels = runpy.run_path(str(script))["strips"](SHARED / "data/cifar10/test1000_webp.tar")
    for name, part in (("train", slice(0, 800)), ("val", slice(800, 1000))):
        np.savez(tmp_path / f"{name}.npz", images=pixels[part], labels=labels[part])
    data = npz(str(tmp_path), crop_padding=4, flip=True)
    assert (data.shape, data.classes, len(data.train), len(data.val)) == ((3, 32, 32), 10, 800, 200)
    x, y = next(iter(Batches(data.train, 128, shuffle=True)))
    assert x.shape == (128, 3, 32, 32) and torch.isfinite(x).all() and len(y.unique()) == 10


# -- torchvision's sets ----------------------------------------------------------------------------------------------


def write_idx(file: Path, array: np.ndarray) -> None:
    header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    file.write_bytes(header + array.astype(np.uint8).tobytes())


def write_fashion(root: Path, labels: np.ndarray) -> None:
    raw = root / "FashionMNIST" / "raw"
    raw.mkdir(parents=True, exist_ok=True)
    for part in ("train", "t10k"):
        write_idx(raw / f"{part}-images-idx3-ubyte", np.arange(20 * 784).reshape(20, 28, 28) % 256)
        write_idx(raw / f"{part}-labels-idx1-ubyte", labels)


def test_fashion_mnist_is_read_from_its_files(tmp_path: Path) -> None:
    write_fashion(tmp_path, np.arange(20) % 10)
    data = downloads("fashion_mnist", str(tmp_path), train_limit=15, mean=[0.0], std=[1.0])
    assert (data.name, data.classes, data.shape) == ("fashion_mnist", 10, (1, 28, 28))
    assert (len(data.train), len(data.val)) == (15, 20)
    x, y = data.train.batch(torch.tensor([1]), None)
    assert y.tolist() == [1] and torch.equal((x * 255).round().flatten(), (torch.arange(784) + 784) % 256)


def test_fashion_mnist_refuses_other_labels(tmp_path: Path) -> None:
    write_fashion(tmp_path, np.arange(20))
    with pytest.raises(UserError, match="labels 0 to 19"):
        downloads("fashion_mnist", str(tmp_path))


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "fashion_mnist"])
def test_a_set_that_is_not_there_says_what_to_do(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=r"data\.download=true") as error:
        downloads(name, str(tmp_path))
    assert str(tmp_path) in str(error.value) and "unpacked to" in str(error.value)


def test_an_unknown_set_is_refused() -> None:
    with pytest.raises(UserError, match="cifar10, cifar100, fashion_mnist"):
        downloads("cifar11")


# -- folders ---------------------------------------------------------------------------------------------------------


def write_folder(root: Path, classes: tuple[str, ...] = ("bee", "ant"), n: int = 5) -> Path:
    random = np.random.default_rng(0)
    for part in ("train", "val"):
        for label in classes:
            (root / part / label).mkdir(parents=True)
            for i in range(n):
                size = (int(random.integers(20, 40)), int(random.integers(20, 40)))
                pixels = random.integers(0, 256, (*size, 3) if i else size, dtype=np.uint8)  # the first one is grey
                Image.fromarray(pixels).save(root / part / label / f"{i}.{'png' if i % 2 else 'JPG'.lower()}")
    (root / "train" / classes[0] / "notes.txt").write_text("no image")
    return root


STATED = {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25], "size": 16, "resize": 18}


def test_a_folder_is_read_with_its_classes_in_order(tmp_path: Path) -> None:
    data = folder(str(write_folder(tmp_path)), **STATED)
    assert (data.classes, data.shape, len(data.train), len(data.val)) == (2, (3, 16, 16), 10, 10)
    x, y = data.val.batch(torch.arange(4), None)
    assert x.shape == (4, 3, 16, 16) and y.tolist() == [0, 1, 0, 1]  # ant, bee, in turn
    assert len(folder(str(tmp_path), train_limit=3, **STATED).train) == 3


@pytest.mark.parametrize("in_memory", [False, True])
def test_images_of_a_folder_do_not_depend_on_the_workers(tmp_path: Path, in_memory: bool) -> None:
    write_folder(tmp_path)
    epochs = []
    for workers in (1, 3):
        data = folder(str(tmp_path), workers=workers, in_memory=in_memory, **STATED)
        epochs.append(list(Batches(data.train, 4, shuffle=True, seed=1)))
    assert same(*epochs)
    resumed = Batches(data.train, 4, shuffle=True, seed=1)
    running = iter(resumed)
    next(running)
    assert resumed.state_dict() == {"epoch": 0, "position": 1}  # what is prepared ahead was not handed out
    resumed.start = 1
    assert same(list(resumed), epochs[0][1:])


def test_the_middle_of_an_image_is_kept_in_evaluation(tmp_path: Path) -> None:
    write_folder(tmp_path, n=1)
    pixels = np.random.default_rng(1).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "val" / "ant" / "0.png")
    (tmp_path / "val" / "ant" / "0.jpg").unlink()
    data = folder(str(tmp_path), size=16, resize=20, mean=[0.0] * 3, std=[1.0] * 3)
    x = data.val.batch(torch.tensor([0]), None)[0][0].mul(255).round().permute(1, 2, 0)
    assert np.array_equal(x.numpy(), pixels[2:18, 7:23])


@pytest.mark.parametrize("in_memory", [False, True])
def test_a_corrupt_image_is_named(tmp_path: Path, in_memory: bool) -> None:
    bad = write_folder(tmp_path) / "train" / "bee" / "2.jpg"
    for content in (b"", b"no image", bad.read_bytes()[:300]):
        bad.write_bytes(content)
        with pytest.raises(UserError, match=r"bee.2\.jpg cannot be decoded"):
            list(Batches(folder(str(tmp_path), in_memory=in_memory, **STATED).train, 4))


@pytest.mark.parametrize("kind", [npz, folder])
def test_a_path_is_needed(kind: Callable[..., object]) -> None:
    with pytest.raises(UserError, match=r"data\.path is missing"):
        kind()


def test_folders_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no folder 'train'"):
        folder(str(tmp_path), **STATED)
    with pytest.raises(UserError, match="nowhere is not there"):
        folder(str(tmp_path / "nowhere"), **STATED)
    write_folder(tmp_path)
    (tmp_path / "val" / "wasp").mkdir()
    with pytest.raises(UserError, match="classes that train lacks: wasp"):
        folder(str(tmp_path), **STATED)
    (tmp_path / "val" / "wasp").rmdir()
    (tmp_path / "train" / "cicada").mkdir()
    with pytest.raises(UserError, match="cicada holds no image"):
        folder(str(tmp_path), **STATED)
    (tmp_path / "empty" / "train").mkdir(parents=True)
    with pytest.raises(UserError, match="no class folders"):
        folder(str(tmp_path / "empty"), **STATED)


def test_a_class_without_validation_images_is_told_and_a_single_class_refused(tmp_path: Path) -> None:
    write_folder(tmp_path)
    assert "val has" not in folder(str(tmp_path), **STATED).source
    shutil.rmtree(tmp_path / "val" / "bee")
    assert folder(str(tmp_path), **STATED).source.endswith("val has no images of bee")
    shutil.rmtree(tmp_path / "train" / "bee")
    with pytest.raises(UserError, match="has 1 class"):
        folder(str(tmp_path), **STATED)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"size": 300}, "size <= resize"),
        ({"size": "large"}, "size=large"),
        ({"flip": "maybe", "in_memory": True}, "flip='maybe'"),
        ({"flip": "maybe"}, "flip='maybe'"),
        ({"workers": 0}, "workers=0"),
        ({"mean": None}, "in_memory"),
        ({"crop_padding": 4}, "in_memory"),
        ({"mean": [0.5]}, "one per channel"),
    ],
)
def test_folder_options_are_checked(tmp_path: Path, arguments: dict, says: str) -> None:
    with pytest.raises(UserError, match=says):
        folder(str(write_folder(tmp_path)), **{**STATED, **arguments})


def test_tiny_imagenet_of_the_shared_data(tmp_path: Path) -> None:
    taken: dict[tuple[str, str], int] = {}
    with tarfile.open(shared("data/tiny_imagenet_25/tiny_imagenet_25.tar.xz")) as archive:
        for member in archive:
            key = tuple(Path(member.name).parts[-3:-1])
            if member.isfile() and member.name.endswith("JPEG") and taken.get(key, 0) < 4:
                taken[key] = taken.get(key, 0) + 1
                place = tmp_path.joinpath(*key)
                place.mkdir(parents=True, exist_ok=True)
                content = archive.extractfile(member)
                assert content is not None
                (place / Path(member.name).name).write_bytes(content.read())
    for name in {key[1] for key in taken} - {path.name for path in (tmp_path / "val").iterdir()}:
        pytest.fail(f"{name} has no validation images")
    data = folder(str(tmp_path), size=64, resize=64, in_memory=True, crop_padding=4)
    assert (data.classes, data.shape, len(data.train), len(data.val)) == (25, (3, 64, 64), 100, 100)
    lazy = folder(str(tmp_path), size=64, resize=64, mean=[0.5] * 3, std=[0.5] * 3)
    x, y = next(iter(Batches(lazy.train, 32, shuffle=True)))
    assert x.shape == (32, 3, 64, 64) and x.min() >= -1 and x.max() <= 1 and len(y.unique()) > 5


def test_importing_the_data_sets_is_cheap() -> None:
    code = "import sys, lpt.data; print(sorted({'sklearn', 'torchvision', 'PIL'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


def test_gzip_copies_of_fashion_mnist_alone_are_not_enough(tmp_path: Path) -> None:
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    (raw / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(b""))
    with pytest.raises(UserError, match="unpacked to"):
        downloads("fashion_mnist", str(tmp_path))


def test_a_set_becomes_npz_arrays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_fashion(tmp_path, np.arange(20) % 10)
    main = runpy.run_path(str(Path(__file__).parents[1] / "scripts" / "make_npz.py"))["main"]
    out = tmp_path / "arrays"
    given = ["fashion_mnist", str(out), "--path", str(tmp_path), "--val", "4"]
    assert main([*given, "--train", "10"]) == 0
    data, whole = npz(str(out)), downloads("fashion_mnist", str(tmp_path))
    assert (len(data.train), len(data.val), len(data.test)) == (10, 4, 20)
    assert torch.equal(data.val.images, whole.train.images[16:]) and torch.equal(data.test.images, whole.val.images)
    assert main([*given, "--train", "17"]) == 2 and "20 together" in capsys.readouterr().err
    assert main(["cifar10", str(out), "--path", str(tmp_path)]) == 2
    held = downloads("fashion_mnist", str(tmp_path), held_out=10)
    assert (len(held.train), len(held.val), len(held.test)) == (10, 10, 20) and "official test part" in held.source
