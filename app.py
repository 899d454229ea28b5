"""A page in the browser: find images and captions, ask about images, see where the model looks.

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
from functools import wraps
from pathlib import Path
from typing import Any, NamedTuple

from transformers import pipeline
from transformers.utils import logging

from dataset_scripts.scene_texts import all_captions
from dataset_scripts.scenes import IMAGE, draw_image, draw_scenes, random_stream
from modeling_albef import AlbefForImageTextRetrieval, AlbefForQuestionAnswering
from modeling_albef.configuration_albef import AlbefError, exit_with_message
from modeling_albef.explain.heat_maps import draw_heat_maps, explain_answer, explain_match
from modeling_albef.explain.visualize import load_processor
from modeling_albef.hub_albef import load_model
from modeling_albef.pipelines_albef import IMAGE_SUFFIXES
from processing import ProcessingError, UnreadableImageError, open_image

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # read when Gradio is imported
try:
    import gradio as gr
except ImportError as error:
    raise SystemExit("The page needs Gradio: run `pip install -e '.[app]'` in the folder of this file.") from error

make_pipeline: Any = pipeline  # whose overloads know the library's own tasks alone
DRAWN = 48  # images of shapes where no folder is given
SIDE = 256  # of these, pixels
FOUND = 8  # images or captions that are shown
MAX_UPLOAD = "20mb"
ONE_AT_A_TIME: dict[str, Any] = {"concurrency_id": "model", "concurrency_limit": 1, "show_progress": "minimal"}


class Part(NamedTuple):
    """A model that the page needs: its pipeline, the demo model's folder, and what to do where it is not there."""

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
    "albef-vqa", AlbefForQuestionAnswering, "output/demo_vqa", "run `make demo-vqa`, or start with `--vqa_model MODEL`"
)


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options of the command line, by default that of this process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = os.environ.get
    for name, part in (("retrieval_model", RETRIEVAL), ("vqa_model", VQA)):
        parser.add_argument(f"--{name}", default=known(f"ALBEF_{name.upper()}"), help=f"default: {part.default}")
    parser.add_argument("--images", default=known("ALBEF_IMAGES"), help="folder to search; default: drawn shapes")
    parser.add_argument("--port", type=int, help="default: GRADIO_SERVER_PORT, else the first free one from 7860")
    return parser.parse_args(argv)


@exit_with_message(AlbefError, ProcessingError)
def main(argv: Sequence[str] | None = None) -> None:
    """Serve the page until it is interrupted."""
    options = parse(argv)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    pass_paths_to_functions()
    with tempfile.TemporaryDirectory(prefix="albef_shapes_") as drawn:
        search = load_pipeline(RETRIEVAL, options.retrieval_model)
        answer = load_pipeline(VQA, options.vqa_model)
        if search is None and answer is None:
            raise AlbefError(f"There is no model to show: {RETRIEVAL.remedy}; or {VQA.remedy}.")
        images = readable_images(Path(options.images)) if options.images else draw_shapes(Path(drawn))
        captions = [] if options.images else [path.stem for path in images[:FOUND]]
        page = build_page(search, answer, images, captions)
        theme = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
        try:
            page.launch(
                theme=theme,
                server_port=options.port,
                max_file_size=MAX_UPLOAD,
                allowed_paths=[str(Path(options.images or drawn).resolve())],
                footer_links=["api", "gradio"],
            )
        except OSError as error:
            raise AlbefError(f"The page cannot be served ({error}): give another --port.") from error


def load_pipeline(part: Part, given: str | None) -> Any:
    """Return the pipeline of a model; None where the demo model is wanted and not there."""
    if given is None and not Path(part.default, "config.json").is_file():
        return None
    name = given or part.default
    return make_pipeline(part.task, model=load_model(part.model_class, name), processor=load_processor(name))


def draw_shapes(folder: Path) -> list[Path]:
    """Draw images of shapes that the demo models have not seen; their names are what they show."""
    paths = []
    for number, scene in enumerate(draw_scenes(0, "test", DRAWN)):
        paths.append(folder / f"{all_captions(scene)[0]}.png")
        draw_image(scene, SIDE, random_stream(0, "test", number, IMAGE)).save(paths[-1])
    return paths


def readable_images(folder: Path) -> list[Path]:
    """Return the images below a folder; those that cannot be read are left out, which is said."""
    if not folder.is_dir():
        raise AlbefError(f"There is no folder {str(folder)!r}: give one with images as --images.")
    good = []
    for path in sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES):
        try:
            open_image(path)
        except UnreadableImageError as error:
            print(f"Left out: {error}")
        else:
            good.append(path)
    if not good:
        raise AlbefError(f"The folder {str(folder)!r} has no images that can be read: give another as --images.")
    return good


def image_field(name: str) -> gr.Image:
    """Return an image to upload, passed on as its path: what is wrong with it is said in our own messages."""
    return gr.Image(label="Image", height=320, sources=["upload", "clipboard"], elem_id=name)


def pass_paths_to_functions() -> None:
    """Let images reach the page's functions as paths; of the class, since each visitor gets new fields."""
    setattr(gr.Image, "preprocess", lambda self, payload: payload and payload.path)  # noqa: B010, its type is another


def shown_on_the_page(function: Callable[..., Any]) -> Callable[..., Any]:
    """Show what a user can mend as a message on the page, not as a traceback."""

    @wraps(function)
    def wrapped(*arguments: Any) -> Any:
        try:
            return function(*arguments)
        except (AlbefError, ProcessingError) as error:
            raise gr.Error(str(error), duration=30, print_exception=False) from error

    return wrapped


def image_of(path: str | None) -> Any:
    """Return the uploaded image; an error names the file, not where the server keeps it."""
    if path is None:
        raise AlbefError("There is no image yet: choose one.")
    try:
        return open_image(path)
    except UnreadableImageError as error:
        raise AlbefError(str(error).replace(path, Path(path).name)) from error


def text_of(text: str | None, what: str) -> str:
    """Return what was typed."""
    if not text or not text.strip():
        raise AlbefError(f"There is no {what} yet: type one.")
    return text.strip()


def build_page(search: Any, answer: Any, images: list[Path], captions: list[str]) -> gr.Blocks:
    """Make the page; a pipeline that is None has a note in its place. `captions` are offered as those of an image."""
    with gr.Blocks(title="ALBEF", analytics_enabled=False) as page:
        gr.Markdown("# ALBEF\nFinds images and captions, answers questions, and shows where it looks.")
        with gr.Tab("Search"):
            add_search(search, images, captions)
        with gr.Tab("Ask"):
            add_questions(answer, images)
        with gr.Tab("Where it looks"):
            add_heat_maps(search, answer, images)
    return page


def add_search(search: Any, images: list[Path], examples: list[str]) -> None:
    """Add the search of images by a text, and of captions by an image."""
    if search is None:
        gr.Markdown(f"There is no model for this: {RETRIEVAL.remedy}.")
        return
    search.index_images(images)
    by_image = make_pipeline("image-text-retrieval", model=search.model, processor=search.processor)

    @shown_on_the_page
    def find_images(text: str) -> list[tuple[str, str]]:
        found = search(text_of(text, "text"), top_k=FOUND)
        return [(one["image"], f"{one['probability']:.0%} {Path(one['image']).stem}") for one in found]

    @shown_on_the_page
    def find_captions(path: str | None, lines: str) -> dict[str, float]:
        image, captions = image_of(path), text_of(lines, "caption").splitlines()
        by_image.index_texts([line.strip() for line in captions if line.strip()])
        return {one["text"]: one["probability"] for one in by_image(image=image, top_k=FOUND)}

    order_note = "best first by the score of the match; beneath, its probability"
    gr.Markdown(f"### Images by a text\nSearches {len(images)} images, {order_note}.")
    text = gr.Textbox(label="Text", placeholder="a red circle left of a blue square", elem_id="search_text")
    start = gr.Button("Find images", variant="primary", elem_id="search_start")
    gallery = gr.Gallery(
        label="Best matches",
        columns=4,
        height="max-content",
        object_fit="contain",
        buttons=["fullscreen"],
        elem_id="search_found",
    )
    for event in (start.click, text.submit):
        event(find_images, text, gallery, **ONE_AT_A_TIME)
    gr.Markdown("### Captions by an image\nOrders captions by the probability of a match.")
    with gr.Row():
        image = image_field("caption_image")
        with gr.Column():
            captions = gr.Textbox(label="Captions, one a line", lines=8, value="\n".join(examples), elem_id="captions")
            order = gr.Button("Order captions", variant="primary", elem_id="caption_start")
        labels = gr.Label(label="Best captions", num_top_classes=FOUND, elem_id="caption_found")
    order.click(find_captions, [image, captions], labels, **ONE_AT_A_TIME)
    gr.Examples([str(path) for path in images[:6]], image, label="Images", elem_id="caption_examples")


def add_questions(answer: Any, images: list[Path]) -> None:
    """Add answers to questions about an image."""
    if answer is None:
        gr.Markdown(f"There is no model for this: {VQA.remedy}.")
        return

    @shown_on_the_page
    def ask(path: str | None, question: str) -> dict[str, float]:
        found = answer(image=image_of(path), question=text_of(question, "question"), top_k=5)
        return {one["answer"]: one["score"] for one in found}

    with gr.Row():
        image = image_field("ask_image")
        with gr.Column():
            question = gr.Textbox(label="Question", placeholder="how many shapes are there", elem_id="ask_question")
            start = gr.Button("Answer", variant="primary", elem_id="ask_start")
            labels = gr.Label(label="Best answers", num_top_classes=5, elem_id="ask_found")
    for event in (start.click, question.submit):
        event(ask, [image, question], labels, **ONE_AT_A_TIME)
    gr.Examples([str(path) for path in images[:6]], image, label="Images", elem_id="ask_examples")


def add_heat_maps(search: Any, answer: Any, images: list[Path]) -> None:
    """Add the heat maps of a caption's or a question's words."""
    kinds = [kind for kind, model in (("caption", search), ("question", answer)) if model is not None]

    @shown_on_the_page
    def look(path: str | None, kind: str, text: str, wanted: str) -> Any:
        image, text = image_of(path), text_of(text, kind)
        if kind == "caption":
            heat = explain_match(search.model, search.processor, image, text)
        else:
            heat = explain_answer(answer.model, answer.processor, image, text, wanted.strip() or None)
        return draw_heat_maps(image, heat)

    with gr.Row():
        image = image_field("look_image")
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
        event(look, [image, kind, text, wanted], sheet, **ONE_AT_A_TIME)
    gr.Examples([str(path) for path in images[:6]], image, label="Images", elem_id="look_examples")


if __name__ == "__main__":
    main()
