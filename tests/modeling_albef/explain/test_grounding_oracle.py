"""Maps and ranking of models of other sizes against numpy alone, whose gradients are differences."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy_grounding import NumpyAlbef, choose, overlap
from PIL import Image
from small_models import WORDS

from modeling_albef import AlbefConfig, AlbefForImageTextRetrieval
from modeling_albef.explain.gradcam import default_block, default_layer, gradcam, similarity_gradcam
from modeling_albef.explain.text_maps import resize_map, text_maps
from modeling_albef.training import GroundingEvaluator
from modeling_albef.training.grounding.boxes import best_box, box_iou, box_scores
from processing import AlbefImageProcessor, AlbefProcessor, build_tokenizer

# image size, patch size, vision layers and heads, text layers, fusion layers, text heads, widths of image and text
SIZES = {
    "six fusion layers, the published layer is the third": (24, 8, 3, 2, 2, 6, 2, 8, 8),
    "three fusion layers, the second": (20, 4, 2, 3, 1, 3, 4, 12, 8),
    "one fusion layer, which is the last": (12, 4, 1, 1, 3, 1, 1, 4, 8),
    "a patch of the whole image": (16, 16, 2, 2, 1, 2, 2, 8, 12),
}


def build(sizes: tuple[int, ...]) -> tuple[Any, NumpyAlbef]:
    image, patch, vision_layers, vision_heads, text_layers, fusion, text_heads, vision_width, text_width = sizes
    torch.manual_seed(sum(sizes))
    config = AlbefConfig(
        projection_dim=6,
        temperature_init=0.3,
        vision_config={
            **{"hidden_size": vision_width, "intermediate_size": 2 * vision_width, "num_hidden_layers": vision_layers},
            **{"num_attention_heads": vision_heads, "image_size": image, "patch_size": patch},
        },
        text_config={
            **{"hidden_size": text_width, "intermediate_size": 3 * text_width, "num_attention_heads": text_heads},
            **{"num_hidden_layers": text_layers + fusion, "num_fusion_layers": fusion, "vocab_size": 200},
            "max_position_embeddings": 12,
        },
    )
    model = AlbefForImageTextRetrieval(config).double().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name != "albef.temperature":
                noise = 0.4 * torch.randn_like(parameter)
                parameter.copy_(parameter + noise if "norm" in name.lower() else noise)
    weights = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    return model, NumpyAlbef(weights, vision_heads, text_heads, text_layers, patch)


def draw_inputs(model: Any, pairs: int = 3) -> dict[str, torch.Tensor]:
    side = model.config.vision_config.image_size
    mask = torch.ones(pairs, 6, dtype=torch.int64)
    mask[1, 4:] = mask[2, 2:] = 0
    ids = torch.randint(3, 200, (pairs, 6))
    ids[:, 0] = 1
    pixel_values = torch.randn(pairs, 3, side, side, dtype=torch.float64)
    return {"pixel_values": pixel_values, "input_ids": ids * mask, "attention_mask": mask}


def close(ours: torch.Tensor, expected: Any) -> None:
    assert np.abs(expected).max() > 1e-6
    np.testing.assert_allclose(ours.numpy(), expected, atol=1e-4 * np.abs(expected).max(), rtol=0)


@pytest.mark.parametrize("sizes", SIZES.values(), ids=list(SIZES))
def test_maps_of_other_sizes(sizes: tuple[int, ...]) -> None:
    model, oracle = build(sizes)
    inputs = draw_inputs(model)
    pixels, ids, mask = (inputs[name].numpy() for name in ("pixel_values", "input_ids", "attention_mask"))
    grid = sizes[0] // sizes[1]
    layer = sizes[4] + sizes[5] // 3  # 8 of 6 + 6 layers
    assert layer == default_layer(model.config.text_config)
    name = f"albef.text_model.encoder.layer.{layer}.crossattention"
    heat = oracle.attention_heat(name, lambda: oracle.match(pixels, ids, mask), range(ids.shape[1]))
    heat = (heat * mask[..., None]).reshape(*ids.shape, grid, grid)
    close(gradcam(model, **inputs), heat)
    # the published mean is over the padded length; a positive factor a text, which no choice depends on
    means = heat.sum(axis=1) / mask.sum(axis=1)[:, None, None]
    close(text_maps(model, inputs), means)
    close(text_maps(model, inputs) * torch.from_numpy(mask.mean(axis=1))[:, None, None], heat.mean(axis=1))

    block = default_block(model.config.vision_config)
    assert block == sizes[2] * 2 // 3
    name = f"albef.vision_model.blocks.{block}.attn"
    heat = oracle.attention_heat(name, lambda: oracle.similarity(pixels, ids, mask), range(1))
    close(text_maps(model, inputs, "itc"), heat.reshape(len(ids), grid, grid))


def test_several_texts_of_an_image_are_pairs_of_it() -> None:
    model, oracle = build(SIZES["three fusion layers, the second"])
    inputs = draw_inputs(model)
    one = {**inputs, "pixel_values": inputs["pixel_values"][:1]}
    thrice = {**inputs, "pixel_values": inputs["pixel_values"][:1].expand(3, -1, -1, -1)}
    torch.testing.assert_close(gradcam(model, **one), gradcam(model, **thrice))
    torch.testing.assert_close(similarity_gradcam(model, **one), similarity_gradcam(model, **thrice))
    pixels, ids, mask = (thrice[name].numpy() for name in ("pixel_values", "input_ids", "attention_mask"))
    heat = oracle.attention_heat(
        "albef.text_model.encoder.layer.2.crossattention", lambda: oracle.match(pixels, ids, mask), range(6)
    )
    close(gradcam(model, **one).flatten(2), heat * mask[..., None])


@pytest.mark.parametrize("count", [1, 2, 9, 40])
@pytest.mark.parametrize(("grid", "size"), [(1, (7, 9)), (3, (50, 31)), (5, (5, 5)), (24, (97, 141)), (9, (4, 6))])
def test_ranking_of_other_sizes(count: int, grid: int, size: tuple[int, int]) -> None:
    """Also maps that are larger than the image, boxes over its ends, and maps with values below 0."""
    generator = np.random.default_rng([count, grid])
    heat = generator.normal(0.3, 1, (grid, grid))
    corners = generator.uniform(0, 1, (count, 2)) * size[::-1]
    sides = generator.uniform(0.2, 1.2, (count, 2)) * size[::-1]
    boxes = np.concatenate([corners, sides], axis=1).tolist()
    expected, best = choose(heat, size, boxes)
    scores = box_scores(resize_map(torch.from_numpy(heat), *size), boxes)
    np.testing.assert_allclose(scores.numpy(), expected, atol=1e-5 * np.abs(expected).max(), rtol=0)
    assert best_box(scores) == best
    for box in boxes:
        assert box_iou(box, boxes[0]) == pytest.approx(overlap(box, boxes[0]))


@pytest.mark.parametrize("mode", ["itm", "itc"])
def test_an_evaluation_is_that_of_the_oracle(mode: str) -> None:
    """Texts of one image and of others, different numbers of boxes, two batches: points, boxes, figures."""
    processor = AlbefProcessor(AlbefImageProcessor(), build_tokenizer(WORDS))
    sizes = list(SIZES["three fusion layers, the second"])
    model, oracle = build(tuple(sizes))
    processor.image_processor.size = {"height": sizes[0], "width": sizes[0]}
    generator = np.random.default_rng(5)
    images = [
        Image.fromarray(generator.integers(0, 255, (height, width, 3), dtype=np.uint8))
        for height, width in ((40, 60), (33, 21))
    ]
    rows = []
    for number, text in enumerate(["a red circle", "a blue star", "a green square left of a red star", "blue"]):
        image = images[number // 2]
        low = generator.uniform(0, 0.5, (number + 1, 2)) * image.size
        sides = generator.uniform(0.2, 0.5, (number + 1, 2)) * image.size
        boxes = np.concatenate([low, sides], axis=1).tolist()
        rows.append({"image": image, "text": text, "box": boxes[-1], "boxes": boxes, "image_id": number // 2})
    float_model = model.float()
    result = GroundingEvaluator(float_model, processor, batch_size=3, gradcam_mode=mode)(rows)
    hits = 0
    for number, row in enumerate(rows):
        inputs = processor(images=row["image"], text=row["text"], return_tensors="np")
        arguments = [inputs[name] for name in ("pixel_values", "input_ids", "attention_mask")]
        if mode == "itm":
            name, score, queries = "text_model.encoder.layer.2.crossattention", oracle.match, arguments[1].shape[1]
        else:
            name, score, queries = "vision_model.blocks.1.attn", oracle.similarity, 1
        heat = oracle.attention_heat(f"albef.{name}", lambda: score(*arguments), range(queries)).mean(axis=1)  # noqa: B023
        grid = sizes[0] // sizes[1]
        heat = heat.reshape(grid, grid)
        np.testing.assert_allclose(result.maps[number].numpy(), heat, atol=1e-3 * heat.max())
        _, best = choose(heat, row["image"].size[::-1], row["boxes"])
        assert result.boxes[number] == (None if best is None else row["boxes"][best])
        hits += best is not None and overlap(row["boxes"][best], row["box"]) >= 0.5
    assert result.metrics["box_accuracy"] == pytest.approx(25 * hits)
