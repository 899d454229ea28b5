"""Augmentation against independent formulas, its frequencies, and its independence of workers."""

from __future__ import annotations

import collections
import io
import math
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image
from torch.utils.data import DataLoader

from processing import (
    AugmentedDataset,
    RandomAugment,
    TrainingAugmentation,
    UnreadableImageError,
    open_image,
    random_resized_crop,
)
from processing import augmentation as module

PHOTO = Image.open(Path(__file__).parents[1] / "golden" / "image.png").convert("RGB").resize((61, 47))
NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 53, 3), dtype=np.uint8))
LEVEL = 0.7
DRAWN = "identity auto_contrast equalize brightness sharpness shear_x shear_y translate_x translate_y rotate".split()


def warped(image: Image.Image, matrix: np.ndarray) -> np.ndarray:
    """Bilinear samples at the inverse map, whole coordinates at pixel centres, 128 outside."""
    source = np.asarray(image, dtype=np.float64)
    height, width = source.shape[:2]
    ys, xs = np.mgrid[:height, :width]
    inverse = np.linalg.inv(np.vstack([matrix, [0, 0, 1]]))
    x, y, _ = np.einsum("ij,jhw->ihw", inverse, np.stack([xs, ys, np.ones_like(xs)]))
    left, top = np.floor(x).astype(int), np.floor(y).astype(int)
    result = np.zeros_like(source)
    for dy in (0, 1):
        for dx in (0, 1):
            column, row = left + dx, top + dy
            inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
            value = np.where(inside[..., None], source[row.clip(0, height - 1), column.clip(0, width - 1)], 128.0)
            result += ((1 - abs(x - column)) * (1 - abs(y - row)))[..., None] * value
    return result


def rotation(image: Image.Image, degrees: float) -> np.ndarray:
    """Anticlockwise on the screen about (width / 2, height / 2)."""
    x, y = image.width / 2, image.height / 2
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    there, back = np.array([[1, 0, -x], [0, 1, -y], [0, 0, 1]]), np.array([[1, 0, x], [0, 1, y], [0, 0, 1]])
    return (back @ np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]]) @ there)[:2]


# ---- operations


@pytest.mark.parametrize("image", [PHOTO, NOISE])
@pytest.mark.parametrize("sign", [1, -1])
def test_moves(image: Image.Image, sign: int) -> None:
    maps = {
        "shear_x": [[1, sign * 0.21, 0], [0, 1, 0]],
        "shear_y": [[1, 0, 0], [sign * 0.21, 1, 0]],
        "translate_x": [[1, 0, -sign * 7], [0, 1, 0]],
        "translate_y": [[1, 0, 0], [0, 1, -sign * 7]],
        "rotate": rotation(image, sign * 21),
    }
    assert set(maps) == set(module.DIRECTED)
    for name, matrix in maps.items():
        found = np.asarray(module.OPERATIONS[name](image, sign * LEVEL), dtype=np.float64)
        assert np.abs(found - warped(image, np.array(matrix, dtype=np.float64))).max() < 1.0 + 1e-6, name


def test_a_translation_moves_whole_pixels_and_fills_with_gray() -> None:
    before, after = np.asarray(NOISE), np.asarray(module.OPERATIONS["translate_x"](NOISE, LEVEL))
    assert np.array_equal(after[:, :-7], before[:, 7:])
    assert (after[:, -7:] == 128).all()


@pytest.mark.parametrize("level", [0.7, -0.3, 0.75])
def test_translations_by_parts_of_a_pixel_are_interpolated(level: float) -> None:
    for name, matrix in (("translate_x", [[1, 0, -10 * level], [0, 1, 0]]), ("translate_y", [[1, 0, 0], [0, 1, -7.5]])):
        level = level if name == "translate_x" else 0.75
        found = np.asarray(module.OPERATIONS[name](NOISE, level), dtype=np.float64)
        assert np.abs(found - warped(NOISE, np.array(matrix, dtype=np.float64))).max() < 1.0 + 1e-6


def test_brightness() -> None:
    found = np.asarray(module.OPERATIONS["brightness"](NOISE, LEVEL))
    assert np.array_equal(found, np.clip(np.asarray(NOISE) * 1.36, 0, 255).astype(np.uint8))


def test_sharpness_clips_where_the_original_wraps() -> None:
    before = np.asarray(NOISE, dtype=np.float64)
    kernel = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]]) / 13
    windows = np.lib.stride_tricks.sliding_window_view(before, (3, 3), axis=(0, 1))
    smooth = np.rint((windows * kernel).sum((-1, -2)))
    inner = before[1:-1, 1:-1]
    raw = smooth + 1.36 * (inner - smooth)
    assert raw.min() < 0 and raw.max() > 255
    found = np.asarray(module.OPERATIONS["sharpness"](NOISE, LEVEL), dtype=np.float64)
    assert np.abs(found[1:-1, 1:-1] - raw.clip(0, 255)).max() < 1.0 + 1e-4
    for edge in (np.s_[0], np.s_[-1], np.s_[:, 0], np.s_[:, -1]):
        assert np.array_equal(found[edge], before[edge])


def test_auto_contrast_stretches_where_the_original_turns_white() -> None:
    values = np.stack([np.arange(50, 150), np.arange(0, 200, 2), np.full(100, 9)], axis=1)[None].astype(np.uint8)
    found = np.asarray(module.OPERATIONS["auto_contrast"](Image.fromarray(values), LEVEL))[0]
    for channel in (0, 1):
        given = values[0, :, channel].astype(float)
        scale = 255 / (given.max() - given.min())
        assert np.array_equal(found[:, channel], (given * scale - given.min() * scale).astype(np.uint8))
    assert (found[:, 2] == 9).all()
    assert found[0].tolist() == [0, 0, 9] and (found[-1] >= [254, 255, 9]).all()


def test_equalize_flattens_the_histogram() -> None:
    dark = Image.fromarray((np.asarray(NOISE) // 8).astype(np.uint8))
    found = np.asarray(module.OPERATIONS["equalize"](dark, LEVEL))
    assert found.min() == 0 and found.max() == 255
    assert abs(found.mean() - 127.5) < 6
    order = np.argsort(np.asarray(dark)[..., 0], axis=None, kind="stable")
    assert (np.diff(found[..., 0].ravel()[order].astype(int)) >= 0).all()


@pytest.mark.parametrize("name", DRAWN)
def test_size_and_mode_stay(name: str) -> None:
    image = NOISE.point(lambda value: 20 + value // 2)
    before = image.tobytes()
    after = module.OPERATIONS[name](image, LEVEL)
    assert (after.size, after.mode) == (image.size, "RGB")
    assert image.tobytes() == before
    assert (after.tobytes() == before) == (name == "identity")


# ---- draws


def test_frequencies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten operations alike, half of them applied, either way alike: within 4.5 standard deviations."""
    calls: list[tuple[str, float]] = []
    for name in DRAWN:
        monkeypatch.setitem(
            module.OPERATIONS, name, lambda image, level, name=name: calls.append((name, level)) or image
        )
    assert list(module.OPERATIONS) == DRAWN
    rng, augment, count = np.random.default_rng(1), RandomAugment(), 20_000
    numbers, repeats = collections.Counter(), 0
    for _ in range(count):
        before = len(calls)
        augment(NOISE, rng)
        numbers[len(calls) - before] += 1
        repeats += len(calls) - before == 2 and calls[-1][0] == calls[-2][0]

    def close(found: int, total: int, share: float) -> bool:
        return abs(found - total * share) < 4.5 * math.sqrt(total * share * (1 - share))

    assert all(close(numbers[applied], count, share) for applied, share in ((0, 0.25), (1, 0.5), (2, 0.25)))
    assert close(repeats, numbers[2], 0.1)  # with replacement
    names = collections.Counter(name for name, _ in calls)
    assert all(close(names[name], len(calls), 0.1) for name in DRAWN)
    for name in DRAWN:
        levels = collections.Counter(level for called, level in calls if called == name)
        if name in module.DIRECTED:
            assert set(levels) == {LEVEL, -LEVEL} and close(levels[LEVEL], names[name], 0.5)
        else:
            assert set(levels) == {LEVEL}


def test_flips_are_a_half() -> None:
    ramp = Image.fromarray(np.tile(np.arange(0, 240, 4, dtype=np.uint8)[None, :, None], (60, 1, 3)))
    augmentation = TrainingAugmentation(16)
    augmentation.random_augment = RandomAugment(num_ops=0)
    rng = np.random.default_rng(2)
    crops = [np.asarray(augmentation(ramp, rng), dtype=int) for _ in range(1000)]
    assert abs(sum(crop[8, 0, 0] > crop[8, -1, 0] for crop in crops) - 500) < 4.5 * math.sqrt(250)


def test_crops_keep_to_scale_and_ratio() -> None:
    rng = np.random.default_rng(3)
    boxes = np.array([module._draw_box(400, 300, rng, (0.5, 1.0), (3 / 4, 4 / 3)) for _ in range(3000)])
    widths, heights = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    assert boxes.min() >= 0 and boxes[:, 2].max() <= 400 and boxes[:, 3].max() <= 300
    shares, ratios = widths * heights / 120_000, widths / heights
    assert 0.495 < shares.min() < 0.52 and 0.95 < shares.max() <= 1
    assert 0.745 < ratios.min() < 0.8 and 1.3 < ratios.max() < 1.34
    free_x = (boxes[:, 0] / np.maximum(400 - widths, 1))[widths < 380]
    assert abs(free_x.mean() - 0.5) < 0.03 and free_x.max() == 1


@pytest.mark.parametrize(
    ("size", "box"),
    [
        ((1000, 90), (440, 0, 560, 90)),
        ((90, 1000), (0, 440, 90, 560)),
        ((1, 1), (0, 0, 1, 1)),
        ((1, 500), (0, 249, 1, 250)),
    ],
)
def test_central_crop_where_none_fits(size: tuple[int, int], box: tuple[int, int, int, int]) -> None:
    assert module._draw_box(*size, np.random.default_rng(0), (0.9, 1.0), (3 / 4, 4 / 3)) == box


def test_crop_reads_nothing_outside_its_box(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = np.full((20, 20, 3), 255, dtype=np.uint8)
    pixels[4:16, 4:16] = 0
    monkeypatch.setattr(module, "_draw_box", lambda *_: (4, 4, 16, 16))
    found = random_resized_crop(Image.fromarray(pixels), 7, np.random.default_rng(0))
    assert found.size == (7, 7) and np.asarray(found).max() == 0


def test_bad_values() -> None:
    with pytest.raises(ValueError, match="magnitude 11"):
        RandomAugment(magnitude=11)
    with pytest.raises(ValueError, match="num_ops is -1"):
        RandomAugment(num_ops=-1)
    with pytest.raises(ValueError, match=r"scale \(0, 1\)"):
        TrainingAugmentation(16, scale=(0, 1))


# ---- data set


def rows(count: int = 6) -> list[dict[str, object]]:
    return [{"image": PHOTO, "caption": f"c{number}", "image_id": number} for number in range(count)]


def content(dataset: AugmentedDataset) -> list[bytes]:
    return [dataset[number]["image"].tobytes() for number in range(len(dataset))]


def test_draws_depend_on_seed_epoch_and_row_alone() -> None:
    dataset = AugmentedDataset(rows(), TrainingAugmentation(24), seed=5)
    first = content(dataset)
    assert len(dataset) == 6 and len(set(first)) == 6
    np.random.seed(0)
    assert content(dataset)[::-1] == [dataset[number]["image"].tobytes() for number in range(5, -1, -1)] == first[::-1]
    dataset.set_epoch(1)
    second = content(dataset)
    assert not set(first) & set(second)
    dataset.set_epoch(0)
    assert content(dataset) == first
    assert not set(content(AugmentedDataset(rows(), TrainingAugmentation(24), seed=6))) & set(first)
    row = dataset[-1]
    assert row["image"].tobytes() == first[5] and (row["caption"], row["image_id"]) == ("c5", 5)
    assert (row["image"].size, row["image"].mode) == ((24, 24), "RGB")


@pytest.mark.parametrize("persistent", [False, True])
def test_workers_change_nothing(persistent: bool) -> None:
    dataset = AugmentedDataset(rows(), TrainingAugmentation(24), seed=5)
    loader = DataLoader(dataset, batch_size=2, num_workers=2, collate_fn=list, persistent_workers=persistent)
    for epoch in (0, 1, 2):
        dataset.set_epoch(epoch)
        loaded = [row["image"].tobytes() for batch in loader for row in batch]
        assert loaded == content(dataset)


def test_rows_of_one_image_differ_in_all_workers_and_epochs() -> None:
    """Workers that start from one seed would give the same crops in each of them."""
    dataset = AugmentedDataset([{"image": PHOTO}] * 16, TrainingAugmentation(24), seed=5)
    loader = DataLoader(dataset, batch_size=2, num_workers=2, collate_fn=list)
    seen = []
    for epoch in (0, 1):
        dataset.set_epoch(epoch)
        seen += [row["image"].tobytes() for batch in loader for row in batch]
    assert len(set(seen)) == len(seen) == 32


# ---- scaled decoding


@pytest.mark.parametrize(
    ("size", "decoded"),
    [
        ((640, 480), (640, 480)),  # COCO
        ((500, 333), (500, 333)),  # Flickr30k
        ((4032, 3024), (2016, 1512)),
        ((3024, 4032), (1512, 2016)),
        ((8064, 6048), (2016, 1512)),
        ((9000, 700), (9000, 700)),
    ],
)
def test_only_large_files_are_decoded_to_a_smaller_size(size: tuple[int, int], decoded: tuple[int, int]) -> None:
    file = io.BytesIO()
    Image.new("RGB", size, (200, 30, 90)).save(file, "JPEG", quality=90)
    source, augmentation = {"bytes": file.getvalue()}, TrainingAugmentation(384)
    assert open_image(source, augmentation.least_size).size == decoded
    assert open_image(source, TrainingAugmentation(384, scaled_decoding=False).least_size).size == size
    assert open_image(source).size == size


def test_every_crop_keeps_twice_the_side() -> None:
    rng, augmentation = np.random.default_rng(6), TrainingAugmentation(32, scale=(0.3, 1.0))
    for _ in range(300):
        width, height = (int(side) for side in rng.integers(60, 1200, 2))
        least = augmentation.least_size(width, height)
        shrunk = least != (width, height)
        left, top, right, bottom = module._draw_box(*least, rng, augmentation.scale, module.RATIO)
        assert not shrunk or min(right - left, bottom - top) >= 2 * 32 - 1


def test_a_smaller_image_gets_the_same_crop() -> None:
    """To a pixel of the smaller one: left, top, width and height. Rarely rounding lets a draw fit into one alone."""
    same = 0
    for seed in range(200):
        full, half = (
            np.array(module._draw_box(width, height, np.random.default_rng(seed), (0.5, 1.0), module.RATIO))
            for width, height in ((4031, 3024), (2016, 1512))
        )
        full[2:] -= full[:2]
        half[2:] -= half[:2]
        same += np.abs(full - 2 * half).max() <= 2
    assert same >= 196


def test_without_augmentation_images_are_only_opened() -> None:
    assert AugmentedDataset(rows())[2]["image"].tobytes() == PHOTO.tobytes()


def test_unreadable_images_are_named(tmp_path: Path) -> None:
    (tmp_path / "bad.jpg").write_bytes(b"no image")
    given = [*rows(1), {"image": {"path": str(tmp_path / "bad.jpg"), "bytes": None}}]
    with pytest.raises(UnreadableImageError, match=r"^Row 1: Image '.*bad\.jpg' is no image that Pillow knows"):
        AugmentedDataset(given)[1]
    with pytest.raises(IndexError, match="no row 2: the data set has 2"):
        AugmentedDataset(given)[2]


def test_decoding_data_sets_go_through_the_same_reader() -> None:
    """The library would raise an error of its own for the broken row."""
    good = io.BytesIO()
    PHOTO.save(good, "PNG")
    images = [{"path": None, "bytes": good.getvalue()}, {"path": "b.png", "bytes": good.getvalue()[:500]}]
    table = datasets.Dataset.from_dict({"image": images}, datasets.Features({"image": datasets.Image()}))
    dataset = AugmentedDataset(table)
    assert dataset[0]["image"].tobytes() == PHOTO.tobytes()
    with pytest.raises(UnreadableImageError, match=r"^Row 1: Image 'b\.png' is damaged"):
        dataset[1]


def test_the_draws_of_a_row_follow_from_its_documented_numbers() -> None:
    """Seed, epoch and row make the generator: a stored run can be repeated by these alone."""
    for options, seed in (({}, 0), ({"seed": 4}, 4)):
        dataset = AugmentedDataset(rows(), lambda image, rng: rng.random(), **options)
        for epoch in (0, 3, 2**24 + 1):  # the last is no float32
            if epoch:
                dataset.set_epoch(epoch)
            drawn = [dataset[index]["image"] for index in (0, 2, -1)]
            assert drawn == [np.random.default_rng((seed, epoch, index)).random() for index in (0, 2, 5)]


def test_rows_are_numbered_as_in_a_list() -> None:
    dataset = AugmentedDataset(rows(4))
    assert [dataset[index]["caption"] for index in (np.int64(3), -4, 0)] == ["c3", "c0", "c0"]
    for index in (4, -5):
        with pytest.raises(IndexError, match=f"There is no row {index}: the data set has 4"):
            dataset[index]


def test_columns_are_those_of_the_data_set() -> None:
    given = [*rows(2), {"image": PHOTO}]
    assert AugmentedDataset(given)["caption"] == ["c0", "c1", None]
    assert AugmentedDataset(tuple(given))["caption"] == ["c0", "c1", None]
    table = datasets.Dataset.from_dict({"image": ["a.png", "b.png"], "caption": ["a", "b"]})
    dataset = AugmentedDataset(table)
    assert list(dataset["caption"]) == ["a", "b"] and dataset.dataset is table  # paths decode nothing
    undecoded = datasets.Dataset.from_dict(
        {"image": ["a.png"]}, datasets.Features({"image": datasets.Image(decode=False)})
    )
    assert AugmentedDataset(undecoded).dataset is undecoded


def test_large_files_are_decoded_to_the_size_that_the_augmentation_needs() -> None:
    """A picture of 16 megapixels at half its sides, before it is augmented."""
    file = io.BytesIO()
    Image.new("RGB", (4000, 4000), (200, 30, 90)).save(file, "JPEG")
    source, sizes = {"path": None, "bytes": file.getvalue()}, []

    class Watching(TrainingAugmentation):
        def __call__(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
            sizes.append(image.size)
            return image

    least = TrainingAugmentation(384).least_size(4000, 4000)
    AugmentedDataset([{"image": source}], Watching(384))[0]
    assert sizes == [(2000, 2000)] and least[0] <= 2000
    assert AugmentedDataset([{"image": source}], lambda image, rng: image)[0]["image"].size == (4000, 4000)
