"""Draw docs/overview.png, what the README shows: a search, an answer and a heat map, of the two demo models.

python docs/draw_overview.py            # after make demo and make demo-vqa
python docs/draw_overview.py --retrieval MODEL --vqa MODEL
"""

from __future__ import annotations

import argparse
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont
from transformers import pipeline
from transformers.utils import logging

from dataset_scripts import load_dataset_script
from modeling_albef import AlbefForQuestionAnswering
from modeling_albef.explain.heat_maps import explain_answer, overlay
from processing import AlbefProcessor

QUERY = "a cyan circle left of a red circle"
QUESTIONS = {"a blue cross left of a green square": "cross", "a yellow circle left of a red square": "circle"}
PICTURE = Path(__file__).parent / "overview.png"
SIDE, GAP, LINE = 176, 16, 30  # pixels: an image, what is between two, a line of text
INK, FAINT, MATCH = "#1f2328", "#59636e", "#1a7f37"


class Sheet:
    """A white sheet on which images with captions are put."""

    def __init__(self, columns: int, height: int) -> None:
        self.image = Image.new("RGB", (GAP + columns * (SIDE + GAP), height), "white")
        self.pen = ImageDraw.Draw(self.image)
        self.large, self.small = ImageFont.load_default(20), ImageFont.load_default(15)

    def write(self, column: float, top: int, text: str, color: str = INK, is_small: bool = False) -> None:
        """Write a line that begins at a column."""
        left = GAP + column * (SIDE + GAP)
        self.pen.text((left, top), text, fill=color, font=self.small if is_small else self.large)

    def put(self, column: float, top: int, image: Image.Image, caption: str, color: str = FAINT) -> None:
        """Put an image at a column, with a frame and a line below it."""
        left = round(GAP + column * (SIDE + GAP))
        self.image.paste(image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC), (left, top))
        self.pen.rectangle((left, top, left + SIDE - 1, top + SIDE - 1), outline=color, width=2)
        self.pen.text((left, top + SIDE + 5), caption, fill=color, font=self.small)


def draw(retrieval: str, vqa: str) -> Image.Image:
    """Return the sheet.

    Args:
        retrieval: Folder or Hub name of a model of `configs/demo_retrieval.yaml`.
        vqa: Likewise, of `configs/demo_vqa.yaml`.
    """
    rows = load_dataset_script("shapes", split="test")
    sheet = Sheet(5, 2 * (SIDE + 3 * LINE) - GAP)
    search = pipeline("image-text-retrieval", model=retrieval)
    search.index_images(list(rows["image"]))
    sheet.write(0, 10, f"Search 200 images: \u201c{QUERY}\u201d")
    for column, found in enumerate(search(QUERY, k=32, top_k=5)):
        color = FAINT if column else MATCH
        sheet.put(column, 10 + LINE, found["image"], f"{column + 1}.  match {found['probability']:.2f}", color)

    top = SIDE + 3 * LINE
    model, processor = AlbefForQuestionAnswering.from_pretrained(vqa), AlbefProcessor.from_pretrained(vqa)
    for number, (caption, shape) in enumerate(QUESTIONS.items()):
        image = next(row["image"] for row in rows if caption in row["caption"]).convert("RGB")
        question, column = f"what color is the {shape}?", 2.5 * number
        heat = explain_answer(model, processor, image, question)
        large = image.resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        sheet.write(column, top, f"Ask: \u201c{question}\u201d")
        sheet.put(column, top + LINE, image, f"{heat.answer}  ({heat.probability:.2f})", MATCH)
        where = overlay(large, heat.maps.numpy()[heat.words.index(shape)])
        sheet.put(column + 1, top + LINE, where, f"what \u201c{shape}\u201d looks at")
    return sheet.image


def main() -> None:
    """Write the picture."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--retrieval", default="output/demo_retrieval", help="model of make demo")
    parser.add_argument("--vqa", default="output/demo_vqa", help="model of make demo-vqa")
    arguments = parser.parse_args()
    logging.disable_progress_bar()
    draw(arguments.retrieval, arguments.vqa).quantize(128).save(PICTURE, optimize=True)
    print(PICTURE)


if __name__ == "__main__":
    main()
