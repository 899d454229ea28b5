"""Training on stored states of a frozen vision tower: its speed, its memory, and what it ends with.

    python -m benchmarks.cached_states [--quick] [--output results.json] [--only speed memory metrics]

`speed`: DINOv2-S/14 at 224 pixels, a MiniLM of six layers and two fusion layers, all of random weights, 32 pairs a step
by configs/photos_small.yaml: on stored states, with the frozen tower in the step, and with a trained one, in turn.
`memory`: a store of 100,000 images without content (sparse files), of which random batches are read.
`metrics`: recalls of three seeds with stored states (float16) and without. All further options are those of
run_retrieval.py for this case, by default drawn shapes and small random encoders:

    python -m benchmarks.cached_states --only metrics --train_files captions.json --validation_files other.json \
        --image_root . --vision_encoder dinov2 --text_encoder minilm --num_train_epochs 1
"""

from __future__ import annotations

import csv
import json
import statistics
import struct
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import (
    BertConfig,
    BertModel,
    Dinov2Config,
    Dinov2Model,
    PrinterCallback,
    TrainerCallback,
    ViTImageProcessor,
)
from transformers.utils import logging

from benchmarks.measure import arguments, report
from dataset_scripts import load_dataset_script
from modeling_albef import AlbefForImageTextRetrieval
from modeling_albef.training import RetrievalTrainer, RetrievalTrainingArguments
from modeling_albef.training.application import (
    DataArguments,
    ModelArguments,
    image_store,
    load_model,
    load_processor,
    load_splits,
    parse_arguments,
    training_rows,
)
from processing import RetrievalCollator, build_tokenizer
from processing.image_states import IMAGES_A_FILE, ImageStates

CLASSES = (ModelArguments, DataArguments, RetrievalTrainingArguments)
RECIPE = Path(__file__).parents[1] / "configs" / "photos_small.yaml"
SILENT = ["--report_to", "none", "--write_report", "false", "--disable_tqdm", "true", "--logging_steps", "1000"]
NO_EVALUATION = ["--do_eval", "false", "--eval_on_start", "false"]
FORMS = {
    "stored": [],
    "frozen": ["--store_image_states", "false"],
    "trained": ["--store_image_states", "false", "--freeze", "itm_head"],
}
SMALL: dict[str, Any] = {"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
MINILM: dict[str, Any] = {
    "hidden_size": 384,
    "intermediate_size": 1536,
    "num_hidden_layers": 6,
    "num_attention_heads": 12,
}
BATCH, WORDS_A_CAPTION, CAPTIONS_AN_IMAGE = 32, 10, 5


def save_encoders(folder: Path, texts: list[str], quick: bool) -> list[str]:
    """Write random encoders of the sizes of DINOv2-S/14 and MiniLM, or small ones; return the options of a run."""
    torch.manual_seed(0)
    size, patch, sizes = (64, 8, SMALL) if quick else (224, 14, {"hidden_size": 384, "num_attention_heads": 6})
    fields: dict[str, Any] = {"mlp_ratio": 2} if quick else {}
    vision_sizes: dict[str, Any] = {name: value for name, value in sizes.items() if name != "intermediate_size"}
    Dinov2Model(Dinov2Config(**vision_sizes, **fields, image_size=size, patch_size=patch)).save_pretrained(
        folder / "vision"
    )
    ViTImageProcessor(size={"height": size, "width": size}).save_pretrained(folder / "vision")
    tokenizer = build_tokenizer(texts)
    vocabulary = len(tokenizer) if quick else 30_522
    BertModel(BertConfig(**(SMALL if quick else MINILM), vocab_size=vocabulary)).save_pretrained(folder / "text")
    tokenizer.save_pretrained(folder / "text")
    layers = str((SMALL if quick else MINILM)["num_hidden_layers"])
    return [
        *("--vision_encoder", str(folder / "vision"), "--text_encoder", str(folder / "text")),
        *("--num_text_layers", layers, "--image_size", str(size)),
    ]


def draw_photos(folder: Path, count: int) -> list[str]:
    """Write JPEG files of 640x480 noise and a table with five captions of ten words each; return the captions."""
    generator, captions = np.random.default_rng(0), []
    folder.mkdir()
    with (folder / "train.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["file_name", "caption"])
        for number in range(count):
            coarse = Image.fromarray(generator.integers(0, 256, (30, 40, 3), dtype=np.uint8))
            coarse.resize((640, 480)).save(folder / f"{number}.jpg")
            for _ in range(CAPTIONS_AN_IMAGE):
                captions.append(" ".join(f"word{one}" for one in generator.integers(0, 500, WORDS_A_CAPTION)))
                table.writerow([f"{number}.jpg", captions[-1]])
    return captions


def make_trainer(words: list[str]) -> RetrievalTrainer:
    """Return a trainer as run_retrieval.py makes it."""
    model_args, data_args, args = parse_arguments(CLASSES, [str(RECIPE), *SILENT, *words])
    splits = load_splits(data_args, args, task="retrieval")
    processor = load_processor(model_args, [], None, max_words=data_args.max_words)
    torch.manual_seed(args.seed)
    model, _ = load_model(AlbefForImageTextRetrieval, model_args, processor.tokenizer)
    size = model.config.vision_config.image_size
    processor.image_processor.size = {"height": size, "width": size}
    trainer = RetrievalTrainer(
        model,
        args,
        train_dataset=training_rows(splits["train"], data_args, args, model, processor),
        eval_dataset=splits.get("validation"),
        data_collator=RetrievalCollator(processor, data_args.max_words, with_names=True),
        processing_class=processor,
    )
    trainer.remove_callback(PrinterCallback)
    trainer.image_store = image_store(data_args, args, model, processor)
    return trainer


class StepClock(TrainerCallback):
    """Seconds and processor seconds of each step but the first, with the reading of its batch."""

    def __init__(self) -> None:
        self.seconds: list[tuple[float, float]] = []
        self._last: tuple[float, float] | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Forget when the last step of an earlier training ended."""
        self._last = None

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Note how long the step took."""
        now = time.perf_counter(), time.process_time()
        if self._last is not None:
            self.seconds.append((now[0] - self._last[0], now[1] - self._last[1]))
        self._last = now


def speed(quick: bool, runs: int) -> dict[str, float]:
    """Steps a second of the three forms, and how many times faster stored states are."""
    steps, clocks, trainers = (3 if quick else 6), {}, {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        words = save_encoders(folder, draw_photos(folder / "photos", BATCH * 2), quick)
        words += ["--data_dir", str(folder / "photos"), "--image_state_dir", str(folder / "states")]
        words += [*NO_EVALUATION, "--max_steps", str(steps), "--init_projections", "none"]
        for form, further in FORMS.items():
            trainers[form] = make_trainer([*words, *further, "--output_dir", str(folder / form)])
            clocks[form] = StepClock()
            trainers[form].add_callback(clocks[form])
        for _ in range(runs):
            for trainer in trainers.values():
                trainer.train()
    wall, cpu = (
        {form: statistics.median(one[kind] for one in clock.seconds) for form, clock in clocks.items()}
        for kind in (0, 1)
    )
    figures = {f"steps a second, {form}": 1 / seconds for form, seconds in wall.items()}
    figures |= {f"processor seconds a step, {form}": seconds for form, seconds in cpu.items()}
    figures |= {f"stored against {form}": wall[form] / wall["stored"] for form in ("frozen", "trained")}
    return figures | {f".. in processor time, {form}": cpu[form] / cpu["stored"] for form in ("frozen", "trained")}


def write_sparse_store(folder: Path, images: int, tokens: int, width: int) -> list[str]:
    """Write files as `ImageStates.write` does, without content and so without need of disk space; return the keys."""
    folder.mkdir()
    keys = [f"{number:032x}-0" for number in range(images)]
    for start in range(0, images, IMAGES_A_FILE):
        own = keys[start : start + IMAGES_A_FILE]
        size = len(own) * tokens * width * 2
        states = {"dtype": "F16", "shape": [len(own), tokens, width], "data_offsets": [0, size]}
        header = json.dumps({"__metadata__": {"keys": json.dumps(own)}, "states": states}).encode()
        header += b" " * (-len(header) % 8)
        with (folder / f"{start:024x}.safetensors").open("wb") as file:
            file.write(struct.pack("<Q", len(header)) + header)
            file.truncate(8 + len(header) + size)
    return keys


def memory(quick: bool) -> dict[str, float]:
    """Megabytes of the index of a large store, and of the process while random batches are read."""
    images, batches = (1_000, 20) if quick else (100_000, 1_000)
    generator = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as name:
        keys = write_sparse_store(Path(name) / "states", images, tokens=257, width=384)
        before, start = _resident_megabytes(), time.perf_counter()
        states = ImageStates(Path(name) / "states")
        figures = {"images": images, "seconds to open": time.perf_counter() - start}
        figures["MB of the index"] = _resident_megabytes() - before
        start = time.perf_counter()
        for batch in range(batches):
            torch.stack([states.read(keys[row]) for row in generator.integers(0, images, BATCH)])
            if batch + 1 in (batches // 10, batches):
                figures[f"MB resident after {batch + 1} batches"] = _resident_megabytes()
        figures["milliseconds a batch"] = 1000 * (time.perf_counter() - start) / batches
    return figures


def _resident_megabytes() -> float:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split("VmRSS:")[1].split()[0]) / 1000


def metrics(quick: bool, words: list[str]) -> dict[str, float]:
    """Mean recall of three seeds with stored states and without."""
    seeds, found = range(1, 3 if quick else 4), dict[str, list[float]]()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if not words:
            shapes: dict[str, Any] = {"num_train": 40 if quick else 400, "num_validation": 40, "image_size": 64}
            drawn = load_dataset_script("shapes", "retrieval", split="train", **shapes)
            words = ["--dataset", "shapes", *(f"--dataset_config.{key}={value}" for key, value in shapes.items())]
            words += save_encoders(folder, [text for texts in drawn["caption"] for text in texts], quick=True)
            words += ["--learning_rate", "1e-3", "--drop_bad_rows", "false"]
        for form in ("stored", "frozen"):
            for seed in seeds:
                further = ["--seed", str(seed), "--eval_on_start", "false", "--image_state_dir", str(folder / "states")]
                trainer = make_trainer([*words, *FORMS[form], *further, "--output_dir", str(folder / "out")])
                trainer.train()
                found.setdefault(form, []).append(trainer.evaluate()["eval_r_mean"])
    pairs = {form: zip(seeds, values, strict=True) for form, values in found.items()}
    figures = {f"r_mean, {form}, seed {seed}": value for form, own in pairs.items() for seed, value in own}
    figures["mean difference"] = statistics.fmean(found["stored"]) - statistics.fmean(found["frozen"])
    return figures | {"deviation of the seeds": statistics.stdev(found["frozen"])}


def main() -> None:
    """Run the cases."""
    args, words = arguments(__doc__).parse_known_args()
    logging.set_verbosity_error()
    todo = {
        "speed": lambda: speed(args.quick, args.runs),
        "memory": lambda: memory(args.quick),
        "metrics": lambda: metrics(args.quick, words),
    }
    report({name: case() for name, case in todo.items() if not args.only or name in args.only}, args.output)


if __name__ == "__main__":
    main()
