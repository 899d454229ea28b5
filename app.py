"""A page in the browser: find images and captions, ask about images, see where the model looks.

    python app.py                                            # the demo models, drawn shapes
    python app.py --retrieval_model MODEL --vqa_model MODEL --images photos --index photos_index --port 7860
    ALBEF_PASSWORD=... python app.py --host 0.0.0.0          # for others on the network

A model is a folder or a name on the Hub. As a Space the options come from the variables ALBEF_RETRIEVAL_MODEL,
ALBEF_VQA_MODEL, ALBEF_IMAGES and ALBEF_INDEX. With --index a second start encodes new and changed images alone;
ALBEF_PASSWORD is not seen by other users of the machine, as a command line is. What the page promises on a
network is in docs/security.md. Needs `pip install -e '.[app]'`.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from transformers import pipeline
from transformers.utils import logging

from dataset_scripts.drawn.scene_texts import all_captions
from dataset_scripts.drawn.scenes import IMAGE, draw_image, draw_scenes, random_stream
from modeling_albef import AlbefForImageTextRetrieval, AlbefForQuestionAnswering
from modeling_albef.configuration_albef import AlbefError, exit_with_message
from modeling_albef.explain.heat_maps import draw_heat_maps, explain_answer, explain_match
from modeling_albef.explain.visualize import load_processor
from modeling_albef.hub_albef import load_model
from modeling_albef.index_albef import IMAGE_SUFFIXES, left_out
from modeling_albef.serving.deadline import Deadline
from modeling_albef.serving.files import ServedFiles
from processing import ProcessingError, UnreadableImageError, open_image

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # read when Gradio is imported
try:
    import gradio as gr
except ImportError as error:
    raise SystemExit("The page needs Gradio: run `pip install -e '.[app]'` in the folder of this file.") from error
from modeling_albef.serving.page import Page, gradio_settings, limited_pixels, pass_paths_to_functions, serve

make_pipeline: Any = pipeline  # whose overloads know the library's own tasks alone
DRAWN = 48  # images of shapes where no folder is given
SIDE = 256  # of these, pixels
FOUND = 8  # images or captions that are shown
RANKED = 16  # images that the matching head ranks, those closest by their embeddings
KEPT = 2000  # images whose states are kept without --index, on the disk of temporary files
MAX_UPLOAD = 20 * 2**20  # bytes
MAX_TEXT, MAX_ANSWER = 1000, 100  # characters
MAX_CAPTIONS = 100
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
    "albef-vqa",
    AlbefForQuestionAnswering,
    "output/demo_vqa",
    "start with `--vqa_model MODEL`, or run `make demo-vqa`, whose model knows drawn shapes alone",
)


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options of the command line, by default that of this process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = os.environ.get
    for name, part in (("retrieval_model", RETRIEVAL), ("vqa_model", VQA)):
        parser.add_argument(f"--{name}", default=known(f"ALBEF_{name.upper()}"), help=f"default: {part.default}")
    parser.add_argument("--images", default=known("ALBEF_IMAGES"), help="folder to search; default: drawn shapes")
    parser.add_argument("--index", default=known("ALBEF_INDEX"), help="folder that keeps what was indexed")
    parser.add_argument("--query", help="text that is searched at the start; default: one that fits the images")
    parser.add_argument("--host", help="address to serve at; default: GRADIO_SERVER_NAME, else this machine alone")
    parser.add_argument("--port", type=int, help="default: GRADIO_SERVER_PORT, else the first free one from 7860")
    parser.add_argument("--password", default=known("ALBEF_PASSWORD"), help="is asked for, with any user name")
    for name, default, what in (
        ("queue", 16, "calls that wait, beside the one that is worked on"),
        ("seconds", 60, "for the work on one call"),
        ("pixels", 25_000_000, "of an image"),
    ):
        kind = float if name == "seconds" else int
        parser.add_argument(f"--max_{name}", type=kind, default=default, help=f"{what}; default: {default}")
    return parser.parse_args(argv)


def check(options: argparse.Namespace) -> None:
    """Refuse options that nothing could be done with."""
    if options.password is not None and not options.password.strip():
        raise AlbefError("The password is empty: give one, or leave --password and ALBEF_PASSWORD out.")
    for name in ("max_queue", "max_seconds", "max_pixels"):
        if not getattr(options, name) > 0:
            raise AlbefError(f"--{name} is {getattr(options, name)}, but must be more than 0.")


@exit_with_message(AlbefError, ProcessingError)
def main(argv: Sequence[str] | None = None) -> None:
    """Serve the page until it is interrupted."""
    options = parse(argv)
    check(options)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    pass_paths_to_functions()
    with ExitStack() as stack:
        stack.enter_context(limited_pixels(options.max_pixels))
        drawn, uploads, temporary = (
            stack.enter_context(tempfile.TemporaryDirectory(prefix="albef_page_")) for _ in range(3)
        )
        stack.enter_context(gradio_settings(GRADIO_TEMP_DIR=uploads, GRADIO_RUN_HISTORY="False"))
        search = load_pipeline(RETRIEVAL, options.retrieval_model)
        answer = load_pipeline(VQA, options.vqa_model)
        if search is None and answer is None:
            raise AlbefError(f"There is no model to show: {RETRIEVAL.remedy}; or {VQA.remedy}.")
        folder = Path(options.images or drawn)
        if not folder.is_dir():
            raise AlbefError(f"There is no folder {str(folder)!r}: give one with images as --images.")
        files = ServedFiles(Path(uploads), folder, MAX_UPLOAD)
        if not options.images:
            draw_shapes(folder)
        logging.enable_progress_bar()
        shown = index_images(folder, files, search, options.index, temporary)
        page = build_page(Page(files, Deadline(options.max_seconds)), search, answer, shown, options)
        files.keep_present()
        try:
            serve(page, options.host, options.port, options.password, options.max_queue)
        except OSError as error:
            raise AlbefError(f"The page cannot be served ({error}): give another --host or --port.") from error


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


class Shown(NamedTuple):
    """The images that are searched, and how many were left out."""

    images: list[Path]
    summary: str  # "58 of 60 images: 1 HEIC (install pillow-heif), 1 damaged"


def index_images(folder: Path, files: ServedFiles, search: Any, kept: str | None, temporary: str) -> Shown:
    """Index the images below a folder; those that cannot be read or are not served are left out and counted.

    Args:
        folder: Of the images.
        files: What is served.
        search: Pipeline, or None where there is no model to search with.
        kept: Folder of an index that stays.
        temporary: Folder of one that does not.
    """
    out = Counter(format_of(path) for path in left_out(folder))
    served = []
    for path in sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES):
        if files.find(str(files.images / path.relative_to(folder))) is not None:
            served.append(path)
            continue
        print(
            f"Left out: image {str(path)!r} is hidden, a link out of the folder, no file, or has more than "
            f"{MAX_UPLOAD:,} bytes."
        )
        out["hidden, linked or too large"] += 1
    total = len(served) + out.total()
    good = index_served(served, search, kept, temporary) if served else []
    if not good:
        raise AlbefError(f"The folder {str(folder)!r} has no images that can be read: give another as --images.")
    if len(good) < len(served):
        out["damaged"] = len(served) - len(good)
    listed = ", ".join(f"{count} {what}" for what, count in out.items())
    summary = f"{len(good):,} of {total:,} images: {listed} left out" if out else f"{total:,} images"
    print(summary, flush=True)  # also where the output is a file
    return Shown(good, summary)


def index_served(paths: list[Path], search: Any, kept: str | None, temporary: str) -> list[Path]:
    """Return the images that can be read; index them where there is a pipeline to search with."""
    if search is None:
        problems = {path: problem for path in paths if (problem := problem_of(path)) is not None}
    else:
        keep_states = kept is not None or len(paths) <= KEPT
        search.index_images(paths, keep_in=kept or temporary, keep_states=keep_states, skip_unreadable=True)
        problems = {Path(one.name): f"Image {one.name!r} {one.reason}." for one in search.index.skipped}
    for problem in problems.values():
        print(f"Left out: {problem}")
    return [path for path in paths if path not in problems]


def format_of(path: Path) -> str:
    """Return what is said of an image whose format is not read here."""
    suffix = path.suffix.lower()
    if suffix in (".heic", ".heif", ".hif"):
        return "HEIC (install pillow-heif)"
    return f"{suffix[1:].upper()} (convert to JPEG or PNG)"


def problem_of(path: Path) -> str | None:
    """Return why an image cannot be read."""
    try:
        open_image(path)
    except UnreadableImageError as error:
        return str(error)
    return None


def image_field(name: str) -> gr.Image:
    """Return an image to upload, passed on as its path: what is wrong with it is said in our own messages."""
    return gr.Image(label="Image", height=320, sources=["upload", "clipboard"], elem_id=name)


def text_of(text: str | None, what: str, longest: int = MAX_TEXT) -> str:
    """Return what was typed."""
    if not text or not text.strip():
        raise AlbefError(f"There is no {what} yet: type one.")
    if len(text.strip()) > longest:
        raise AlbefError(f"The {what} has {len(text.strip())} characters, but {longest} are allowed: shorten it.")
    return text.strip()


def build_page(page: Page, search: Any, answer: Any, shown: Shown, options: argparse.Namespace) -> Page:
    """Fill the page; a pipeline that is None has a note in its place."""
    for found in (search, answer):
        if found is not None:
            page.deadline.watch(found.model)
    with page:
        gr.Markdown("# ALBEF\nFinds images and captions, answers questions, and shows where it looks.")
        with gr.Tab("Search"):
            add_search(page, search, shown, options)
        with gr.Tab("Ask"):
            add_questions(page, answer, shown.images)
        with gr.Tab("Where it looks"):
            add_heat_maps(page, search, answer, shown.images)
    return page


class Order(NamedTuple):
    """By which number results are ordered, and how it is shown."""

    key: str
    note: str
    form: str

    @classmethod
    def of(cls, search: Any) -> Order:
        """Return the order of a pipeline's results."""
        weight = search.model.config.rerank_weight
        if weight is None:
            note = "the probability that text and image belong together, by the matching head"
            return cls("probability", note, "{:.0%}")
        if weight == 0:
            return cls("similarity", "the cosine similarity of text and image, -1 to 1", "{:.2f}")
        return cls("score", f"similarity / temperature + {weight:g} * score of the matching head", "{:.1f}")

    def sort(self, found: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return results, best first."""
        return sorted(found, key=lambda one: -one[self.key])

    def shares(self, found: list[dict[str, Any]], name: str) -> dict[str, float]:
        """Return a number 0..1 for each result: the probability, or its share among all results."""
        if self.key == "probability":
            return {one[name]: one[self.key] for one in found}
        shares = np.exp([one[self.key] - found[0][self.key] for one in found])
        return {one[name]: float(share) for one, share in zip(found, shares / shares.sum(), strict=True)}


def names_of(images: Sequence[Path], folder: Path) -> dict[str, str]:
    """Return path -> what an image is called: its name, with its folder where several have the same name."""
    counts = Counter(path.stem for path in images)
    return {str(path): path.stem if counts[path.stem] == 1 else str(path.relative_to(folder)) for path in images}


def first_query(images: list[Path], options: argparse.Namespace) -> str:
    """Return a text that is searched before anybody types one."""
    if options.query is not None:
        return str(options.query)
    return "a person outdoors" if options.images else images[0].stem


def add_search(page: Page, search: Any, shown: Shown, options: argparse.Namespace) -> None:
    """Add the search of images by a text, and of captions by an image."""
    if search is None:
        gr.Markdown(f"There is no model for this: {RETRIEVAL.remedy}.")
        return
    images = shown.images
    by_image = make_pipeline("image-text-retrieval", model=search.model, processor=search.processor)
    order = Order.of(search)
    names = names_of(images, Path(options.images) if options.images else images[0].parent)

    def find(text: str) -> list[tuple[str, str]]:
        found = order.sort(search(text, k=RANKED, top_k=RANKED))[:FOUND]
        return [
            (one["image"], f"{order.form.format(one[order.key])} {names.get(one['image'], Path(one['image']).stem)}")
            for one in found
        ]

    @page.shown
    def find_images(text: str) -> list[tuple[str, str]]:
        return find(text_of(text, "text"))

    @page.shown
    def find_captions(path: str | None, lines: str) -> dict[str, float]:
        image, typed = page.image_of(path), text_of(lines, "caption", MAX_CAPTIONS * MAX_TEXT).splitlines()
        captions = [text_of(line, "caption") for line in typed if line.strip()]
        if len(captions) > MAX_CAPTIONS:
            raise AlbefError(f"There are {len(captions)} captions, but {MAX_CAPTIONS} are allowed: leave some out.")
        by_image.index_texts(captions)
        return order.shares(order.sort(by_image(image=image, top_k=len(captions)))[:FOUND], "text")

    query = first_query(images, options)
    try:
        first, at_start = find(query), query
    except AlbefError:  # a model that knows no word of it
        first, at_start = [], ""
    place = f" in {Path(options.images).resolve().name}" if options.images else ""
    ranked = "" if order.key == "similarity" else f" The {RANKED} images with the closest embeddings are ranked."
    gr.Markdown(
        f"### Images by a text\nSearches {shown.summary}. The best come first. The number is {order.note}.{ranked}"
    )
    text = gr.Textbox(
        label="Text",
        value=at_start,
        placeholder=f"What you look for{place}, for example: {query}",
        autofocus=True,
        elem_id="search_text",
    )
    start = gr.Button("Find images", variant="primary", elem_id="search_start")
    gallery = gr.Gallery(
        first,
        label="Best matches",
        columns=4,
        height="max-content",
        object_fit="contain",
        buttons=["fullscreen"],
        elem_id="search_found",
    )
    for event in (start.click, text.submit):
        event(find_images, text, gallery, **ONE_AT_A_TIME)
    share = order.note if order.key == "probability" else "a caption's share: all captions have 100 % together"
    gr.Markdown(f"### Captions by an image\nThe best come first. The number is {share}.")
    examples = [] if options.images else [path.stem for path in images[:FOUND]]
    with gr.Row():
        image = image_field("caption_image")
        with gr.Column():
            captions = gr.Textbox(
                label="Captions, one a line (Shift+Enter orders them)",
                lines=8,
                value="\n".join(examples),
                elem_id="captions",
            )
            rank = gr.Button("Order captions", variant="primary", elem_id="caption_start")
        labels = gr.Label(label="Best captions", num_top_classes=FOUND, elem_id="caption_found")
    for event in (rank.click, captions.submit):  # Shift and Enter in a field of several lines
        event(find_captions, [image, captions], labels, **ONE_AT_A_TIME)
    gr.Examples([str(path) for path in images[:6]], image, label="Images", elem_id="caption_examples")


def add_questions(page: Page, answer: Any, images: list[Path]) -> None:
    """Add answers to questions about an image."""
    if answer is None:
        gr.Markdown(f"There is no model for this: {VQA.remedy}.")
        return

    @page.shown
    def ask(path: str | None, question: str) -> dict[str, float]:
        found = answer(image=page.image_of(path), question=text_of(question, "question"), top_k=5)
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


def add_heat_maps(page: Page, search: Any, answer: Any, images: list[Path]) -> None:
    """Add the heat maps of a caption's or a question's words."""
    kinds = [kind for kind, model in (("caption", search), ("question", answer)) if model is not None]
    if search is not None and Order.of(search).key == "similarity":
        gr.Markdown(
            "The heat maps of captions explain the matching head. The search orders images by similarity alone, "
            "without this head: it may be untrained, so there are none."
        )
        kinds.remove("caption")
    if not kinds:
        return

    @page.shown
    def look(path: str | None, kind: str, text: str, wanted: str) -> Any:
        image, text = page.image_of(path), text_of(text, kind or kinds[0])
        if (kind or kinds[0]) == "caption":
            heat = explain_match(search.model, search.processor, image, text)
        else:
            given = text_of(wanted, "answer", MAX_ANSWER) if wanted and wanted.strip() else None
            heat = explain_answer(answer.model, answer.processor, image, text, given)
        return draw_heat_maps(image, heat)

    with gr.Row():
        image = image_field("look_image")
        with gr.Column():
            kind = gr.Radio(kinds, value=kinds[0], label="The text is a", elem_id="look_kind")
            text = gr.Textbox(label=" or ".join(kinds).capitalize(), elem_id="look_text")
            wanted = gr.Textbox(label="Answer that is explained (empty: the best)", elem_id="look_answer")
            start = gr.Button("Show", variant="primary", elem_id="look_start")
    wanted.visible = kinds[0] == "question"
    kind.change(lambda value: gr.update(visible=value == "question"), kind, wanted, queue=False)
    sheet = gr.Image(
        label="Heat maps",
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
