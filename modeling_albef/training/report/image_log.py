"""Images of predictions in TensorBoard, Weights & Biases and Trackio, where a run reports to them."""

from __future__ import annotations

import io
import textwrap
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.integrations import TensorBoardCallback

from .examples import Candidate, Example, hardest_galleries
from .pages import LONGEST, RESULT_SIDE, Thumbnail, image_columns_of, verdict
from .queries import queries_of, shown_rows

if TYPE_CHECKING:
    from ..trainer import AlbefTrainer

SIDE = RESULT_SIDE  # of an image in a panel
LINE, COLUMNS = 16, 44  # pixels of a line of text, characters in it
COLORS = {"right": (23, 105, 47), "wrong": (179, 38, 30), "partly": (122, 82, 0), "unknown": (110, 110, 110)}
IMAGE_LOGGERS = ("wandb", "trackio")  # modules with an `Image(image, caption=..)` and a `log(values)`


class ImageLogCallback(TrainerCallback):
    """Sends the hardest queries of each evaluation as images, with what is right and wrong about them as captions.

    The services are those of `report_to`; what they do not support is left out.
    """

    def __init__(self, trainer: AlbefTrainer, thumbnail: Thumbnail, count: int) -> None:
        """Make the callback; it sends `count` queries of each kind."""
        self.trainer, self.thumbnail, self.count = trainer, thumbnail, count

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Send the images from the first process; the integrations have opened their logs for the metrics before."""
        services = self._services(args)
        if not services or not state.is_world_process_zero:
            return
        for evaluation in self.trainer.last_evaluations:
            rows = shown_rows(evaluation.result, evaluation.dataset)
            for gallery in hardest_galleries(queries_of(evaluation.result, evaluation.dataset), self.count):
                tag = f"{evaluation.split}/{gallery.name}"
                panels = [(panel(example, rows, self.thumbnail), caption(example)) for example in gallery.examples]
                for service in services:
                    _send(service, tag, panels, state.global_step)

    def on_predict(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, *_: Any, **kw: Any
    ) -> None:
        """Send the images of a test as well."""
        self.on_evaluate(args, state, control, **kw)

    def _services(self, args: TrainingArguments) -> list[Any]:
        """Return TensorBoard's open writer, and modules that take images."""
        callbacks = self.trainer.callback_handler.callbacks
        writers = [callback.tb_writer for callback in callbacks if isinstance(callback, TensorBoardCallback)]
        return [
            *(writer for writer in writers if writer is not None),
            *(import_module(name) for name in IMAGE_LOGGERS if name in (args.report_to or ())),
        ]


def _send(service: Any, tag: str, panels: list[tuple[Image.Image, str]], step: int) -> None:
    if getattr(service, "__name__", "") in IMAGE_LOGGERS:
        for number, (image, text) in enumerate(panels):
            service.log({f"{tag}/{number}": service.Image(image, caption=text), "train/global_step": step})
        return
    for number, (image, text) in enumerate(panels):
        service.add_image(f"{tag}/{number}", np.asarray(image), step, dataformats="HWC")
        service.add_text(f"{tag}/{number}", "    " + text.replace("\n", "\n    "), step)  # as it is, no Markdown
    service.flush()


def caption(example: Example) -> str:
    """Return what a panel shows, in words: the query, its note, a line for each candidate."""
    lines = [line for line in (example.text, example.note) if line]
    lines += [_candidate_line(candidate) for candidate in example.candidates]
    lines += [f"given: {' · '.join(example.truths)}"] if example.truths else []
    return "\n".join(line[:LONGEST] for line in lines)


def _candidate_line(candidate: Candidate) -> str:
    kind, _ = verdict(candidate.credit)
    words = [] if candidate.rank is None else [f"{candidate.rank}."]
    words += [] if kind == "unknown" else [f"{kind}:"]
    words += [candidate.text] if candidate.text is not None else [f"image {candidate.row}"]
    words += [] if candidate.score is None else [f"({candidate.score:.2f})"]
    words += [] if candidate.probability is None else [f"(probability {candidate.probability:.3f})"]
    return " ".join(words)


def panel(example: Example, dataset: Any, thumbnail: Thumbnail) -> Image.Image:
    """Draw a query and what came of it as one image.

    Images stand in a row, both of a pair, framed green where right and red where wrong, above the words of `caption`.
    """
    if example.row is None:
        shown = [(candidate.row, "image", verdict(candidate.credit)[0]) for candidate in example.candidates]
    else:
        kind, _ = verdict(example.candidates[0].credit)
        shown = [(example.row, column, kind) for column in image_columns_of(dataset, example.row)]
    lines = [part for line in caption(example).splitlines() for part in textwrap.wrap(line, COLUMNS)]
    width = max(len(shown) * (SIDE + 8), COLUMNS * LINE // 2)
    drawn = Image.new("RGB", (width, SIDE + 8 + LINE * (len(lines) + 1)), "white")
    draw = ImageDraw.Draw(drawn)
    for number, (row, column, kind) in enumerate(shown):
        left = number * (SIDE + 8)
        draw.rectangle((left, 0, left + SIDE + 5, SIDE + 5), fill="white", outline=COLORS[kind], width=3)
        try:
            image = Image.open(io.BytesIO(thumbnail(dataset[row][column], SIDE))).convert("RGB")
            drawn.paste(image, (left + 3 + (SIDE - image.width) // 2, 3 + (SIDE - image.height) // 2))
        except (OSError, ValueError):
            draw.text(
                (left + 8, SIDE // 2), f"row {row} cannot be read", fill="black", font=ImageFont.load_default(LINE - 4)
            )
    for number, line in enumerate(lines):
        draw.text((4, SIDE + 12 + number * LINE), line, fill="black", font=ImageFont.load_default(LINE - 3))
    return drawn
