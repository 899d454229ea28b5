# Copyright 2026 The ALBEF for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Draw where a model looks in an image for each word of a caption, or of a question, into one PNG file.

    python -m modeling_albef.visualize photo.png "a red circle" --model output/demo_retrieval
    python -m modeling_albef.visualize photo.png --question "what color is the star" --model output/demo_vqa

Grad-CAM on the cross-attention, see `gradcam.py`.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import AutoProcessor
from transformers.utils import PROCESSOR_NAME, logging

from processing import ProcessingError, open_image

from ..configuration_albef import AlbefError, exit_with_message, one_line
from ..hub_albef import load_model
from ..modeling_albef_question_answering import AlbefForQuestionAnswering
from ..modeling_albef_retrieval import AlbefForImageTextRetrieval
from .heat_maps import draw_heat_maps, explain_answer, explain_match


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options of the command line, by default that of this process."""
    parser = argparse.ArgumentParser("python -m modeling_albef.visualize", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("image", type=Path, help="file of an image")
    parser.add_argument("caption", nargs="?", help="text that is matched with the image")
    parser.add_argument("--question", help="in place of a caption; the model must answer questions")
    parser.add_argument("--answer", help="answer that is explained; default: the model's best")
    parser.add_argument("--model", required=True, help="folder of a model, or its name on the Hub")
    output_help = "PNG file to write; default: NAME_heat_maps.png, of a question NAME_question_heat_maps.png, here"
    parser.add_argument("--output", type=Path, help=output_help)
    parser.add_argument("--layer", type=int, help="fusion layer, counted among all text layers; default: see gradcam")
    return parser.parse_args(argv)


@exit_with_message(AlbefError, ProcessingError)
def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    args = parse(argv)
    logging.set_verbosity_error()  # a missing head has an error of our own
    logging.disable_progress_bar()
    visualize(args)


def visualize(args: argparse.Namespace) -> None:
    """Draw the heat maps that the options ask for."""
    if (args.caption is None) == (args.question is None):
        raise AlbefError("Give either a caption or --question.")
    if args.answer is not None and args.question is None:
        raise AlbefError("--answer belongs to a --question: give that, too.")
    kind = "" if args.question is None else "_question"
    output = args.output or Path(f"{args.image.stem}{kind}_heat_maps.png")
    if output.suffix.lower() != ".png":
        raise AlbefError(f"--output is {str(output)!r}, but must end in .png.")
    if not output.parent.is_dir():
        raise AlbefError(f"There is no folder {str(output.parent)!r} for the output: make it first.")
    image = open_image(args.image)
    model = load_model(AlbefForImageTextRetrieval if args.question is None else AlbefForQuestionAnswering, args.model)
    processor = load_processor(args.model)
    if args.question is None:
        heat = explain_match(model, processor, image, args.caption, args.layer)
    else:
        heat = explain_answer(model, processor, image, args.question, args.answer, args.layer)
    try:
        draw_heat_maps(image, heat).save(output)
    except OSError as error:
        raise AlbefError(f"{output} cannot be written ({error}): name another file.") from error
    print(f"{heat.title()}: {output}")


def load_processor(name: str) -> Any:
    """Return the processor of a model."""
    try:
        return AutoProcessor.from_pretrained(name, trust_remote_code=False)
    except (OSError, ValueError, RecursionError) as error:  # the last one of JSON that is nested without end
        is_there = Path(name, PROCESSOR_NAME).is_file()
        if is_there and isinstance(error, ProcessingError):
            raise
        if is_there:
            message = f"The processor beside the model {name!r} cannot be loaded: {one_line(error)}. Copy it again."
            raise AlbefError(message) from error
        raise AlbefError(f"There is no processor beside the model {name!r}: save it into the same folder.") from error
