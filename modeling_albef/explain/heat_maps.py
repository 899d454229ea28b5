# Copyright 2026 The ALBEF for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Heat maps of words, computed by Grad-CAM and drawn over the image on one sheet.

Shapes: W words, L text tokens.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from ..configuration_albef import AlbefError
from ..modeling_albef_question_answering import AlbefForQuestionAnswering
from ..modeling_albef_retrieval import AlbefForImageTextRetrieval
from ..pipelines_albef import AlbefVqaPipeline
from .gradcam import ModelWithHead, gradcam

PANEL, GAP, COLUMNS = 224, 12, 5  # pixels, pixels, panels in a row at most
QUESTION_WORDS = 50  # that are read, as in published tests
BLUR = 0.02  # of the longer side, as in salesforce/ALBEF `visualization.ipynb`
OPACITY_EXPONENT = 0.7  # likewise


@dataclass
class HeatMaps:
    """Where a model looks for each word."""

    words: list[str]  # W words as the model reads them, cleaned up
    maps: torch.Tensor  # (W, rows, columns), >= 0: the mean over the pieces of a word
    probability: float  # of the match, or of the answer, 0..1
    answer: str | None = None  # what the question was answered by; None for a caption
    text: str = ""  # caption or question

    def title(self) -> str:
        """Return the line above the images."""
        what = "match" if self.answer is None else f"answer: {self.answer}"
        return f"{what}, probability {self.probability:.2f}"


def explain_match(
    model: AlbefForImageTextRetrieval, processor: Any, image: Any, caption: str, layer: int | None = None
) -> HeatMaps:
    """Return what in an image (path or Pillow image) speaks for a caption; the probability is that of a match."""
    inputs = _encode(processor, image, caption, "caption", processor.max_words).to(model.device)
    with torch.no_grad():
        logits = model(**inputs).itm_logits[0, 0]
    words, maps = _word_maps(model, processor, inputs, layer=layer)
    return HeatMaps(words, maps, float(logits.float().softmax(dim=-1)[1]), text=caption)


def explain_answer(
    model: AlbefForQuestionAnswering,
    processor: Any,
    image: Any,
    question: str,
    answer: str | None = None,
    layer: int | None = None,
) -> HeatMaps:
    """Return what in an image speaks for an answer, by default the model's best one.

    The probability is that of the answer among all texts.
    """
    inputs = _encode(processor, image, question, "question", QUESTION_WORDS).to(model.device)
    if answer is None:
        pipeline = AlbefVqaPipeline(model, processor=processor, device=model.device)
        answer = pipeline(image=image, question=question, top_k=1)[0]["answer"]
    if not answer.strip():
        raise AlbefError("The answer is empty: there is nothing to explain.")
    encoded = processor.encode_answers([answer]).to(model.device)
    answers = {f"answer_{name}": encoded[name] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        loss = model(**inputs, **answers).loss
    words, maps = _word_maps(model, processor, inputs, **answers, layer=layer)
    return HeatMaps(words, maps, math.exp(-float(loss)), answer, question)


def draw_heat_maps(image: Image.Image, heat: HeatMaps) -> Image.Image:
    """Return an RGB sheet: the text, the image, then once a word the image with the word's heat map, and a scale.

    Each map is stretched to its own range, so colors tell where, not how strongly.
    """
    width, height = (max(1, round(side * PANEL / max(image.size))) for side in image.size)
    small = image.resize((width, height), Image.Resampling.BICUBIC)
    panels = [(small, "image")]
    panels += [(overlay(small, values), word) for word, values in zip(heat.words, heat.maps.numpy(), strict=True)]
    columns = min(COLUMNS, len(panels))
    font = ImageFont.load_default(16)
    line = 28  # height of a line of text
    width, height = PANEL + GAP, small.height + line + GAP
    head = line * (2 if heat.text else 1)
    rows = math.ceil(len(panels) / columns)
    sheet = Image.new("RGB", (columns * width + GAP, rows * height + head + line + 2 * GAP), "white")
    pen = ImageDraw.Draw(sheet)
    for number, text in enumerate(filter(None, (heat.text, heat.title()))):
        _write(pen, (sheet.width // 2, GAP // 2 + number * line), text, sheet.width - 2 * GAP, font)
    _draw_scale(sheet, pen, head + GAP + rows * height, font)
    for index, (panel, word) in enumerate(panels):
        left, top = GAP + index % columns * width, head + GAP + index // columns * height
        sheet.paste(panel, (left + (PANEL - panel.width) // 2, top))
        _write(pen, (left + PANEL // 2, top + panel.height + 3), word, PANEL, font)
    return sheet


def _encode(processor: Any, image: Any, text: str, text_type: str, max_words: int) -> Any:
    """Return the model's inputs; a text of which nothing or not all would be read is refused."""
    options = {"text_type": text_type, "return_tensors": "pt"}
    inputs = processor(images=[image], text=[text], max_words=max_words, **options)
    if not _pieces(processor.tokenizer, inputs["input_ids"][0].tolist()):
        raise AlbefError(f"The {text_type} {text!r} has no words: give some.")
    whole = processor(text=[text], max_words=len(text) + 1, **options)["input_ids"]
    if whole.shape != inputs["input_ids"].shape:
        raise AlbefError(f"The {text_type} has more than the {max_words} words that the model reads: shorten it.")
    return inputs


def _pieces(tokenizer: Any, ids: list[int]) -> list[tuple[str, list[int]]]:
    """Return words and the positions of their pieces; tokens without a word of the text are left out."""
    own = {tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.pad_token_id}
    words: list[tuple[str, list[int]]] = []
    for position, (number, token) in enumerate(zip(ids, tokenizer.convert_ids_to_tokens(ids), strict=True)):
        if number in own:
            continue
        if token.startswith("##") and words:
            word, positions = words[-1]
            words[-1] = (word + token[2:], [*positions, position])
        else:
            words.append((token, [position]))
    return words


def _word_maps(
    model: ModelWithHead, processor: Any, inputs: Any, layer: int | None, **answers: Any
) -> tuple[list[str], torch.Tensor]:
    """Return words and their maps (W, rows, columns)."""
    maps = gradcam(model, **inputs, **answers, layer=layer)[0].cpu()  # (L, rows, columns)
    words = _pieces(processor.tokenizer, inputs["input_ids"][0].tolist())
    heat = torch.stack([maps[positions].mean(dim=0) for _, positions in words])
    if not heat.any():
        raise AlbefError("No word's attention in this layer speaks for it: choose an earlier fusion layer.")
    return [word for word, _ in words], heat


def overlay(image: Image.Image, values: np.ndarray) -> Image.Image:
    """Return the image under a heat map (rows, columns): blue to red, and the hotter the denser."""
    blocks = Image.fromarray((255 * _stretch(values)).round().astype(np.uint8))
    smooth = blocks.resize(image.size, Image.Resampling.BICUBIC)
    smooth = smooth.filter(ImageFilter.GaussianBlur(BLUR * max(image.size)))
    heat = _stretch(np.asarray(smooth, dtype=np.float32))[..., None]  # (height, width, 1)
    opacity = heat**OPACITY_EXPONENT
    mixed = (1 - opacity) * np.asarray(image, dtype=np.float32) + opacity * _colors(heat)
    return Image.fromarray(mixed.round().astype(np.uint8))


def _colors(heat: np.ndarray) -> np.ndarray:
    """Return RGB colors 0..255 (.., 3) of heat 0..1 (.., 1): MATLAB's "jet"."""
    return np.clip(1.5 - np.abs(4 * heat - np.array([3.0, 2.0, 1.0])), 0, 1) * 255


def _draw_scale(sheet: Image.Image, pen: ImageDraw.ImageDraw, top: int, font: Any) -> None:
    """Draw what the colors mean: no color where a word's map is lowest, red where it is highest."""
    heat = np.linspace(0, 1, PANEL // 2)[None, :, None]
    opacity = heat**OPACITY_EXPONENT
    bar = ((1 - opacity) * 255 + opacity * _colors(heat)).round().astype(np.uint8).repeat(14, axis=0)
    left = (sheet.width - bar.shape[1]) // 2
    sheet.paste(Image.fromarray(bar), (left, top + 3))
    pen.rectangle((left - 1, top + 2, left + bar.shape[1], top + 17), outline="gray")
    pen.text((left - 8, top), "least", fill="black", font=font, anchor="ra")
    pen.text((left + bar.shape[1] + 8, top), "most of a word", fill="black", font=font, anchor="la")


def _stretch(values: np.ndarray) -> np.ndarray:
    """Return values brought to 0..1; all 0 where they are equal."""
    low, high = float(values.min()), float(values.max())
    return (values - low) / (high - low) if high > low else np.zeros_like(values)


def _write(pen: ImageDraw.ImageDraw, top_middle: tuple[int, int], text: str, width: int, font: Any) -> None:
    """Write a centered line; what does not fit is cut and ends in dots."""
    while len(text) > 1 and pen.textlength(text, font) > width:
        text = text.removesuffix("...")[:-1] + "..." if len(text) > 4 else text[:-1]
    pen.text(top_middle, text, fill="black", font=font, anchor="ma")
