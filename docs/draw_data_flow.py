"""Draws docs/data_flow.svg: how images and texts go through the models, with the names and sizes of the modules.

    python docs/draw_data_flow.py

Names are looked up in the models and sizes counted, so a drawing of modules that are not there cannot be made. A test
fails while the file says something else than this script.
"""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any

import torch
from torch import nn

from modeling_albef import AlbefConfig, AlbefForPreTraining, AlbefForQuestionAnswering
from modeling_albef.training import FeatureQueue, MomentumTeacher, RetrievalTrainingArguments

DRAWING = Path(__file__).parent / "data_flow.svg"
WIDTH, HEIGHT = 980, 716
PROJECTIONS = ("vision_proj", "text_proj")
STYLE = """
  .page { fill: #ffffff; }
  .box { fill: #eef3fb; stroke: #5b7db1; stroke-width: 1.3; }
  .value { fill: #ffffff; stroke: #8a93a3; stroke-width: 1.2; }
  .training { fill: #fdf4e3; stroke: #b3863a; stroke-width: 1.2; stroke-dasharray: 6 4; }
  .line { fill: none; stroke: #4d5766; stroke-width: 1.6; }
  .head { fill: #4d5766; }
  text { font-family: system-ui, "Segoe UI", "DejaVu Sans", sans-serif; fill: #1c2430; text-anchor: middle; }
  .title { font-size: 15px; font-weight: 600; }
  .small { font-size: 12.5px; }
  .note { font-size: 12px; fill: #4d5766; text-anchor: start; }
  @media (prefers-color-scheme: dark) {
    .page { fill: #12171f; }
    .box { fill: #1e2b40; stroke: #7fa3d8; }
    .value { fill: #12171f; }
    .training { fill: #352a16; stroke: #d0a352; }
    .line { stroke: #b4bdca; }
    .head { fill: #b4bdca; }
    text { fill: #e8edf4; }
    .note { fill: #b4bdca; }
  }
"""


def box(x: int, y: int, width: int, title: str, *lines: str, kind: str = "box") -> str:
    """Return a box with a title and further lines; 32 units high and 18 more a line."""
    middle = f"{x + width / 2:g}"
    parts = [f'<rect class="{kind}" x="{x}" y="{y}" width="{width}" height="{32 + 18 * len(lines)}" rx="7"/>']
    parts.append(f'<text class="title" x="{middle}" y="{y + 21}">{escape(title)}</text>')
    for number, line in enumerate(lines):
        parts.append(f'<text class="small" x="{middle}" y="{y + 40 + 18 * number}">{escape(line)}</text>')
    return "\n".join(parts)


def arrow(path: str, note: str = "", x: int = 0, y: int = 0, dashed: bool = False) -> str:
    """Return a line with a head, and a note beside it."""
    dashes = ' stroke-dasharray="6 4"' if dashed else ""
    line = f'<path class="line" d="{path}" marker-end="url(#head)"{dashes}/>'
    return line + (f'\n<text class="note" x="{x}" y="{y}">{escape(note)}</text>' if note else "")


def millions(*modules: nn.Module) -> str:
    """Return how many parameters modules have together."""
    return f"{sum(p.numel() for module in modules for p in module.parameters()) / 1e6:.1f} million parameters"


def draw_towers(model: AlbefForPreTraining) -> list[str]:
    """Return the part from images and texts to their similarities."""
    vision, text = model.config.vision_config, model.config.text_config
    find: Any = model.get_submodule
    text_layers = find("albef.text_model.encoder").text_layers
    states = f"{vision.num_hidden_layers} layers, {vision.num_patches + 1} states of {vision.hidden_size}"
    maps = [
        f"{find(f'albef.{name}').in_features} to {model.config.projection_dim}, unit length" for name in PROJECTIONS
    ]
    last, side = text.num_text_layers - 1, vision.image_size
    return [
        box(50, 24, 250, "pixel_values", f"images x {vision.num_channels} x {side} x {side}", kind="value"),
        box(360, 24, 250, "input_ids, attention_mask", "[CLS] w1 .. wn, no [SEP]", kind="value"),
        arrow("M175 74 V112"),
        arrow("M485 74 V112"),
        box(50, 114, 250, "albef.vision_model", states, millions(find("albef.vision_model"))),
        box(
            *(360, 114, 250, "albef.text_model", f"layers 0 to {last}: text alone, states of {text.hidden_size}"),
            millions(find("albef.text_model.embeddings"), *text_layers),
        ),
        arrow("M175 182 V226", "class token", 184, 209),
        arrow("M485 182 V226", "[CLS]", 494, 209),
        box(50, 228, 250, f"albef.{PROJECTIONS[0]}", maps[0]),
        box(360, 228, 250, f"albef.{PROJECTIONS[1]}", maps[1]),
        arrow("M175 278 V326", "image_embeds", 184, 307),
        arrow("M485 278 V326", "text_embeds", 494, 307),
        box(50, 328, 560, "logits_per_image, logits_per_text", "cosine / albef.temperature", kind="value"),
    ]


def draw_fusion(model: AlbefForPreTraining, answering: AlbefForQuestionAnswering) -> list[str]:
    """Return the text layers with cross-attention to the image, and the heads on them."""
    text, decoder = model.config.text_config, answering.text_decoder
    fusion_layers: Any = model.get_submodule("albef.text_model.encoder").fusion_layers
    layers = f"albef.text_model, layers {text.num_text_layers} to {text.num_hidden_layers - 1}: fusion"
    heads = {name: type(model.get_submodule(name)).__name__ for name in ("itm_head", "mlm_head")}
    outcome = f"{answering.rank_answers.__name__}, {answering.generate.__name__}"
    question = [f"in {type(answering).__name__} alone: {len(decoder.layer)} causal layers"]
    question.append(f"cross-attention to the question, {millions(decoder)}")
    return [
        # the states pass the projections on the outside
        arrow("M50 148 H24 V466 H108", "image_hidden_states: keys and values", 34, 412),
        arrow("M610 148 H636 V466 H552", "text_hidden_states", 516, 412),
        box(
            *(110, 432, 440, layers, "self-attention over the text, cross-attention to the image"),
            millions(*fusion_layers),
        ),
        arrow("M175 500 V546"),
        arrow("M351 500 V546"),
        arrow("M520 500 V546"),
        box(24, 548, 190, "itm_head", "match or not, from [CLS]", f"{heads['itm_head']}, itm_logits"),
        box(236, 548, 230, "mlm_head", f"in {type(model).__name__} alone", "masked words, mlm_logits"),
        box(490, 548, 466, "text_decoder", *question),
        arrow("M119 616 V658", dashed=True),
        arrow("M351 616 V658", dashed=True),
        arrow("M602 616 V658", dashed=True),
        arrow("M843 616 V658"),
        box(24, 660, 190, "itm_loss", kind="training"),
        box(236, 660, 230, "mlm_loss", kind="training"),
        box(490, 660, 225, "answer_loss", kind="training"),
        box(731, 660, 225, outcome, kind="value"),
    ]


def draw_training() -> list[str]:
    """Return the part that only training needs."""
    recipe = RetrievalTrainingArguments
    follow = f"{recipe.momentum:g} teacher + {1 - recipe.momentum:g} student"
    targets = f"targets: {recipe.alpha:g} teacher + {1 - recipe.alpha:g} pairs"
    return [
        box(690, 114, 266, MomentumTeacher.__name__, "of the same class, moved each step to", follow, kind="training"),
        arrow("M823 182 V226", "its embeddings", 832, 209, dashed=True),
        box(690, 228, 266, FeatureQueue.__name__, f"the last {recipe.queue_size:,} of each kind", kind="training"),
        arrow("M823 278 V326", "candidates", 832, 307, dashed=True),
        arrow("M610 353 H688", dashed=True),
        box(690, 328, 266, "itc_loss", targets, kind="training"),
        '<text class="note" x="748" y="412">dashed: in training alone</text>',
    ]


def draw() -> str:
    """Return the drawing of the published sizes."""
    with torch.device("meta"):  # shapes without memory
        model, answering = AlbefForPreTraining(AlbefConfig()), AlbefForQuestionAnswering(AlbefConfig())
    head = '<marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">',
            "<title>How images and texts go through ALBEF</title>",
            f"<style>{STYLE}</style>",
            f'<defs>{head}<path class="head" d="M0 0 L8 4 L0 8 z"/></marker></defs>',
            f'<rect class="page" width="{WIDTH}" height="{HEIGHT}" rx="12"/>',
            *draw_towers(model),
            *draw_fusion(model, answering),
            *draw_training(),
            "</svg>\n",
        ]
    )


if __name__ == "__main__":
    DRAWING.write_text(draw(), encoding="utf-8")
