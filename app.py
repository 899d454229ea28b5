"""A page in the browser: find pictures and captions, ask about pictures, see where the model looks.

    python app.py                                            # the demo models, drawn shapes
    python app.py --retrieval_model MODEL --vqa_model MODEL --images photos --port 7860

A model is a folder or a name on the Hub. As a Space the options come from the variables ALBEF_RETRIEVAL_MODEL,
ALBEF_VQA_MODEL and ALBEF_IMAGES. Needs `pip install -e '.[app]'`.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any

from transformers import pipeline
from transformers.utils import logging

from dataset_scripts.scene_texts import all_captions
from dataset_scripts.scenes import IMAGE, draw_image, draw_scenes, random_stream
from modeling_albef import AlbefForImageTextRetrieval, AlbefForQuestionAnswering
from modeling_albef.explain.heat_maps import draw_heat_maps, explain_answer, explain_match
from modeling_albef.explain.visualize import load_model, load_processor
from modeling_albef.pipelines_albef import IMAGE_SUFFIXES
from processing import UnreadableImageError, open_image

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # read when Gradio is imported
try:
    import gradio as gr
except ImportError as error:
    raise SystemExit("The page needs Gradio: run `pip install -e '.[app]'` in the folder of this file.") from error

DRAWN = 48  # pictures of shapes where no folder is given
SIDE = 256  # of these, pixels
FOUND = 8  # pictures or captions that are shown
MAX_UPLOAD = "20mb"
ONE_AT_A_TIME = {"concurrency_id": "model", "concurrency_limit": 1, "show_progress": "minimal"}


@dataclass(frozen=True)
class Part:
    """A model that the page needs.

    Attributes:
        task: Of its pipeline.
        model_class: Its class.
        default: Folder of the demo model.
        remedy: What to do where it is not there.
    """

    task: str
    model_class: Any
    default: str
    remedy: str


RETRIEVAL = Part(
    "image-text-retrieval",
    AlbefForImageTextRetrieval,
    "output/demo_retrieval",
    "run `make demo`, or start with `--retrieval_model MODEL`",
)
VQA = Part(
    "albef-vqa",
    AlbefForQuestionAnswering,
    "output/demo_vqa",
    "run `make demo-vqa`, or start with `--vqa_model MODEL`",
)


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line.

    Args:
        argv: Its words; default: those of this process.

    Returns:
        The options.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = os.environ.get
    parser.add_argument(
        "--retrieval_model", default=known("ALBEF_RETRIEVAL_MODEL"), help=f"default: {RETRIEVAL.default}"
    )
    parser.add_argument("--vqa_model", default=known("ALBEF_VQA_MODEL"), help=f"default: {VQA.default}")
    parser.add_argument("--images", default=known("ALBEF_IMAGES"), help="folder to search; default: drawn shapes")
    parser.add_argument("--port", type=int, help="default: GRADIO_SERVER_PORT, else the first free one from 7860")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Serves the page until it is interrupted; a refusal is one sentence and exit status 1."""
    options = parse(argv)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    hand_on_paths()
    with tempfile.TemporaryDirectory(prefix="albef_shapes_") as drawn:
        try:
            search = load_pipeline(RETRIEVAL, options.retrieval_model)
            answer = load_pipeline(VQA, options.vqa_model)
            if search is None and answer is None:
                raise ValueError(f"There is no model to show: {RETRIEVAL.remedy}; or {VQA.remedy}.")
            pictures = readable_images(Path(options.images)) if options.images else draw_shapes(Path(drawn))
            captions = [] if options.images else [path.stem for path in pictures[:FOUND]]
            page = build_page(search, answer, pictures, captions)
        except (ValueError, OSError) as error:
            raise SystemExit(f"{error}") from error
        folder = str(Path(options.images or drawn).resolve())
        theme = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
        try:
            page.launch(
                theme=theme,
                server_port=options.port,
                max_file_size=MAX_UPLOAD,
                allowed_paths=[folder],
                footer_links=["api", "gradio"],
            )
        except OSError as error:
            raise SystemExit(f"The page cannot be served ({error}): give another --port.") from error


def load_pipeline(part: Part, given: str | None) -> Any:
    """The pipeline of a model; None where the demo model is wanted and not there.

    Raises:
        ValueError: The model cannot be used.
    """
    if given is None and not Path(part.default, "config.json").is_file():
        return None
    name = given or part.default
    return pipeline(part.task, model=load_model(part.model_class, name), processor=load_processor(name))


def draw_shapes(folder: Path) -> list[Path]:
    """Draws pictures of shapes that the demo models have not seen; their names are what they show."""
    paths = []
    for number, scene in enumerate(draw_scenes(0, "test", DRAWN)):
        paths.append(folder / f"{all_captions(scene)[0]}.png")
        draw_image(scene, SIDE, random_stream(0, "test", number, IMAGE)).save(paths[-1])
    return paths


def readable_images(folder: Path) -> list[Path]:
    """The pictures below a folder; those that cannot be read are left out, which is said.

    Raises:
        ValueError: There is no such folder, or no picture in it.
    """
    if not folder.is_dir():
        raise ValueError(f"There is no folder {str(folder)!r}: give one with pictures as --images.")
    good = []
    for path in sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES):
        try:
            open_image(path)
        except UnreadableImageError as error:
            print(f"Left out: {error}")
        else:
            good.append(path)
    if not good:
        raise ValueError(f"The folder {str(folder)!r} has no pictures that can be read: give another as --images.")
    return good


def picture_field(name: str) -> gr.Image:
    """A picture to upload, handed on as its path and not decoded: what is wrong with it is told in our words.

    Args:
        name: Of the element on the page.

    Returns:
        The field.
    """
    return gr.Image(label="Picture", height=320, sources=["upload", "clipboard"], elem_id=name)


def hand_on_paths() -> None:
    """Lets pictures reach the page's functions as paths: of the class, since Gradio makes fields anew for a visitor."""
    gr.Image.preprocess = lambda self, payload: payload and payload.path  # type: ignore[method-assign]


def told(function: Callable[..., Any]) -> Callable[..., Any]:
    """Shows what a user can mend as a message on the page, not as a traceback."""

    @wraps(function)
    def wrapped(*arguments: Any) -> Any:
        try:
            return function(*arguments)
        except (ValueError, OSError) as error:
            raise gr.Error(str(error), duration=30, print_exception=False) from error

    return wrapped


def picture_of(path: str | None) -> Any:
    """The uploaded picture.

    Raises:
        ValueError: There is none, or it cannot be read; the message names the file, not where the server keeps it.
    """
    if path is None:
        raise ValueError("There is no picture yet: choose one.")
    try:
        return open_image(path)
    except UnreadableImageError as error:
        raise ValueError(str(error).replace(path, Path(path).name)) from error


def text_of(text: str | None, what: str) -> str:
    """What was typed.

    Raises:
        ValueError: Nothing.
    """
    if not text or not text.strip():
        raise ValueError(f"There is no {what} yet: type one.")
    return text.strip()


def build_page(search: Any, answer: Any, pictures: list[Path], captions: list[str]) -> gr.Blocks:
    """Makes the page.

    Args:
        search: The pipeline `image-text-retrieval`, or None.
        answer: The pipeline `albef-vqa`, or None.
        pictures: What is searched, and offered as examples.
        captions: What is offered as captions of a picture.

    Returns:
        The page, to be launched.
    """
    with gr.Blocks(title="ALBEF", analytics_enabled=False) as page:
        gr.Markdown("# ALBEF\nFinds pictures and captions, answers questions, and shows where it looks.")
        with gr.Tab("Search"):
            add_search(search, pictures, captions)
        with gr.Tab("Ask"):
            add_questions(answer, pictures)
        with gr.Tab("Where it looks"):
            add_heat_maps(search, answer, pictures)
    return page


def add_search(search: Any, pictures: list[Path], examples: list[str]) -> None:
    """Pictures by a text, and captions by a picture."""
    if search is None:
        gr.Markdown(f"There is no model for this: {RETRIEVAL.remedy}.")
        return
    search.index_images(pictures)
    by_picture = pipeline("image-text-retrieval", model=search.model, processor=search.processor)

    @told
    def find_pictures(text: str) -> list[tuple[str, str]]:
        found = search(text_of(text, "text"), top_k=FOUND)
        return [(one["image"], f"{one['probability']:.0%} {Path(one['image']).stem}") for one in found]

    @told
    def find_captions(path: str | None, lines: str) -> dict[str, float]:
        picture, captions = picture_of(path), text_of(lines, "caption").splitlines()
        by_picture.index_texts([line.strip() for line in captions if line.strip()])
        return {one["text"]: one["probability"] for one in by_picture(image=picture, top_k=FOUND)}

    order_told = "best first by the score of the match; beneath, its probability"
    gr.Markdown(f"### Pictures by a text\nSearches {len(pictures)} pictures, {order_told}.")
    text = gr.Textbox(label="Text", placeholder="a red circle left of a blue square", elem_id="search_text")
    start = gr.Button("Find pictures", variant="primary", elem_id="search_start")
    gallery = gr.Gallery(
        label="Best matches",
        columns=4,
        height="max-content",
        object_fit="contain",
        buttons=["fullscreen"],
        elem_id="search_found",
    )
    for event in (start.click, text.submit):
        event(find_pictures, text, gallery, **ONE_AT_A_TIME)
    gr.Markdown("### Captions by a picture\nOrders captions by the probability of a match.")
    with gr.Row():
        picture = picture_field("caption_picture")
        with gr.Column():
            captions = gr.Textbox(label="Captions, one a line", lines=8, value="\n".join(examples), elem_id="captions")
            order = gr.Button("Order captions", variant="primary", elem_id="caption_start")
        labels = gr.Label(label="Best captions", num_top_classes=FOUND, elem_id="caption_found")
    order.click(find_captions, [picture, captions], labels, **ONE_AT_A_TIME)
    gr.Examples([str(path) for path in pictures[:6]], picture, label="Pictures", elem_id="caption_examples")


def add_questions(answer: Any, pictures: list[Path]) -> None:
    """Answers to questions about a picture."""
    if answer is None:
        gr.Markdown(f"There is no model for this: {VQA.remedy}.")
        return

    @told
    def ask(path: str | None, question: str) -> dict[str, float]:
        found = answer(image=picture_of(path), question=text_of(question, "question"), top_k=5)
        return {one["answer"]: one["score"] for one in found}

    with gr.Row():
        picture = picture_field("ask_picture")
        with gr.Column():
            question = gr.Textbox(label="Question", placeholder="how many shapes are there", elem_id="ask_question")
            start = gr.Button("Answer", variant="primary", elem_id="ask_start")
            labels = gr.Label(label="Best answers", num_top_classes=5, elem_id="ask_found")
    for event in (start.click, question.submit):
        event(ask, [picture, question], labels, **ONE_AT_A_TIME)
    gr.Examples([str(path) for path in pictures[:6]], picture, label="Pictures", elem_id="ask_examples")


def add_heat_maps(search: Any, answer: Any, pictures: list[Path]) -> None:
    """Where a model looks for each word of a caption or a question."""
    kinds = [kind for kind, model in (("caption", search), ("question", answer)) if model is not None]

    @told
    def look(path: str | None, kind: str, text: str, wanted: str) -> Any:
        picture, text = picture_of(path), text_of(text, kind)
        if kind == "caption":
            heat = explain_match(search.model, search.processor, picture, text)
        else:
            heat = explain_answer(answer.model, answer.processor, picture, text, wanted.strip() or None)
        return draw_heat_maps(picture, heat)

    with gr.Row():
        picture = picture_field("look_picture")
        with gr.Column():
            kind = gr.Radio(kinds, value=kinds[0], label="The text is a", elem_id="look_kind")
            text = gr.Textbox(label="Caption or question", elem_id="look_text")
            wanted = gr.Textbox(label="Answer that is explained (empty: the best)", elem_id="look_answer")
            start = gr.Button("Show", variant="primary", elem_id="look_start")
    wanted.visible = kinds[0] == "question"
    kind.change(lambda value: gr.update(visible=value == "question"), kind, wanted)
    sheet = gr.Image(
        label="Red: what speaks most for it",
        format="png",
        buttons=["download", "fullscreen"],
        elem_id="look_sheet",
        interactive=False,
    )
    for event in (start.click, text.submit):
        event(look, [picture, kind, text, wanted], sheet, **ONE_AT_A_TIME)
    gr.Examples([str(path) for path in pictures[:6]], picture, label="Pictures", elem_id="look_examples")


if __name__ == "__main__":
    main()
