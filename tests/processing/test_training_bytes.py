"""Training images are resized by torch, and normalized on the device: what differs from Pillow, and what does not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from small_models import save_retrieval

from benchmarks.input_pipeline import synthesise_photos
from modeling_albef import AlbefForImageTextRetrieval
from modeling_albef.training import RetrievalTrainer, RetrievalTrainingArguments
from processing import AlbefProcessor, RetrievalCollator, TrainingAugmentation
from processing.augmentation import _draw_box, random_resized_crop


def test_crops_differ_from_pillows_by_little(tmp_path: Path) -> None:
    differences = []
    for number, path in enumerate(synthesise_photos(tmp_path, 4, 640, 480)):
        image = Image.open(path).convert("RGB")
        ours = np.array(random_resized_crop(image, 384, np.random.default_rng(number)), dtype=int)
        box = _draw_box(640, 480, np.random.default_rng(number), (0.5, 1.0), (3 / 4, 4 / 3))
        theirs = np.array(image.crop(box).resize((384, 384), Image.Resampling.BICUBIC), dtype=int)
        differences.append(np.abs(ours - theirs))
    assert max(part.max() for part in differences) <= 2
    assert 0 < np.mean([(part > 0).mean() for part in differences]) < 0.004


def test_a_crop_of_the_right_size_stays_as_it_is() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    crop = random_resized_crop(
        Image.fromarray(pixels), 32, np.random.default_rng(0), scale=(1.0, 1.0), ratio=(1.0, 1.0)
    )
    assert np.array_equal(np.array(crop), pixels)


def test_a_trainer_normalizes_bytes_on_the_device(tmp_path: Path) -> None:
    """The batch has a quarter of the bytes; what the model gets are the values of the processor."""
    save_retrieval(tmp_path / "model")
    model, processor = (
        kind.from_pretrained(tmp_path / "model") for kind in (AlbefForImageTextRetrieval, AlbefProcessor)
    )
    side = processor.image_processor.size["height"]
    augmentation, rng = TrainingAugmentation(side), np.random.default_rng(0)
    photos = [Image.open(path).convert("RGB") for path in synthesise_photos(tmp_path, 3, 64, 48)]
    rows = [{"image": augmentation(photo, rng), "caption": "a dog", "image_id": n} for n, photo in enumerate(photos)]
    collator = RetrievalCollator(processor)
    options = {"use_cpu": True, "eval_strategy": "no", "queue_size": 0, "per_device_train_batch_size": 2}
    args = RetrievalTrainingArguments(output_dir=str(tmp_path / "out"), **options)
    trainer = RetrievalTrainer(model, args, train_dataset=rows, data_collator=collator, processing_class=processor)
    batch, expected = trainer.get_train_dataloader().collate_fn(rows), collator(rows)["pixel_values"]
    assert trainer.data_collator(rows)["pixel_values"].dtype == torch.float32  # as a loop of one's own takes it
    assert batch["pixel_values"].dtype == torch.uint8 and 4 * batch["pixel_values"].nbytes == expected.nbytes
    found = trainer._prepare_inputs(batch)["pixel_values"]
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
