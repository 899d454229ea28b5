"""Tensors of any shape: the right ones give finite outputs of the documented shapes, the others a named argument."""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import hypothesis.strategies as st
import pytest
import torch
from fuzz_cases import COUNTS, fuzz

from modeling_albef import AlbefConfig, AlbefForImageTextRetrieval, AlbefForPreTraining, AlbefForQuestionAnswering

WIDTH, SIDE, PATCHES, EMBED, WORDS, LONGEST = 8, 8, 4, 6, 11, 7
# Shapes as the docstrings have them; a letter that two arguments of a call share is one size.
IMAGES, TEXTS = {"pixel_values": "I3SS"}, {"input_ids": "NL", "attention_mask": "NL"}
PAIRS = {"pixel_values": "B3SS", "input_ids": "BL", "attention_mask": "BL"}
CANDIDATES = {"image_ids": "B", "image_candidates": "CE", "text_candidates": "CE", "candidate_ids": "C"}
MASKED = {"masked_input_ids": "BL", "mlm_labels": "BL", "teacher_mlm_logits": "BLV"}
QUESTIONS = {"pixel_values": "I3SS", "input_ids": "BM", "attention_mask": "BM", "image_index": "B"}
ANSWERS = {
    "answer_input_ids": "AL",
    "answer_attention_mask": "AL",
    "answer_weights": "A",
    "answers_per_question": "B",
    "teacher_logits": "ALV",
}
CALLS: dict[str, dict[str, str]] = {
    "images": IMAGES,
    "texts": TEXTS,
    "score": IMAGES | TEXTS,
    "match": {"text_hidden_states": "NLH", "attention_mask": "NL", "image_hidden_states": "IPH", "image_index": "N"},
    "retrieval": PAIRS | CANDIDATES,
    "pretraining": PAIRS | CANDIDATES | MASKED,
    "questions": QUESTIONS,
    "answers": QUESTIONS | ANSWERS,
    "rank": QUESTIONS | {"candidates.input_ids": "CL", "candidates.attention_mask": "CL"},
    "generate": QUESTIONS,
}
NEEDED = {"pixel_values", "input_ids", "text_hidden_states", "image_hidden_states", "candidates.input_ids"}
FIXED = {"3": 3, "S": SIDE, "H": WIDTH, "E": EMBED, "V": WORDS}
LONGEST_TEXT = 3  # beside that of a call with an image and answers


class Case(NamedTuple):
    """A call, the shape of each argument that it gets, and the seed of their values."""

    call: str
    shapes: dict[str, tuple[int, ...]]
    seed: int


@st.composite
def cases(draw: st.DrawFn) -> Case:
    call = draw(st.sampled_from(sorted(CALLS)))
    sizes = {letter: draw(st.integers(1, 3)) for letter in "IBNLMACP"} | FIXED
    images = draw(st.sampled_from(["one", "as many", "any"]))
    sizes["I"] = {"one": 1, "as many": sizes["N" if "text" in call else "B"], "any": sizes["I"]}[images]
    sizes["C"] += sizes["B"] * draw(st.sampled_from([0, 1, 1, 1]))
    arguments = CALLS[call]
    kept = {name for name in arguments if name in NEEDED or draw(st.integers(0, 4))}
    shapes = {name: tuple(sizes[letter] for letter in arguments[name]) for name in arguments if name in kept}
    for _ in range(draw(st.sampled_from([0, 1, 1, 2]))):
        name = draw(st.sampled_from(sorted(shapes)))
        shapes[name] = draw(other_shape(shapes[name]))
    return Case(call, shapes, draw(st.integers(0, 3)))


@st.composite
def other_shape(draw: st.DrawFn, shape: tuple[int, ...]) -> tuple[int, ...]:
    """A dimension more, a dimension less, or another size."""
    place = draw(st.integers(0, max(len(shape) - 1, 0)))
    change = draw(st.sampled_from(["size", "size", "size", "more", "less", "scalar", "swap"]))
    if change == "more":
        return (*shape[:place], draw(st.integers(1, 2)), *shape[place:])
    if change == "less":
        return (*shape[:place], *shape[place + 1 :])
    if change == "swap":
        return shape[::-1]
    if change == "scalar" or not shape:
        return ()
    return (*shape[:place], draw(st.sampled_from([0, 1, 2, 3, 4, 9])), *shape[place + 1 :])


@cache
def model(kind: str) -> Any:
    tower = {"hidden_size": WIDTH, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = AlbefConfig(
        vision_config={**tower, "image_size": SIDE, "patch_size": PATCHES},
        text_config={**tower, "num_fusion_layers": 1, "vocab_size": WORDS, "max_position_embeddings": LONGEST},
        projection_dim=EMBED,
    )
    torch.manual_seed(0)
    if kind == "pretraining":
        return AlbefForPreTraining(config).eval()
    if kind in ("questions", "answers", "rank", "generate"):
        network = AlbefForQuestionAnswering(config).eval()
        network.config.decoder_config.bos_token_id, network.config.decoder_config.eos_token_id = 1, 2
        return network
    return AlbefForImageTextRetrieval(config).eval()


def values(case: Case) -> dict[str, Any]:
    """Tensors of the shapes, with values in range where the shapes are right."""
    generator = torch.Generator().manual_seed(case.seed)
    made: dict[str, Any] = {}
    for name, shape in case.shapes.items():
        last = name.split(".")[-1]
        if last.endswith("input_ids") or name == "mlm_labels":
            made[name] = torch.randint(1, WORDS, shape, generator=generator)
        elif last.endswith("mask"):
            made[name] = torch.ones(shape, dtype=torch.long)
        elif name in ("image_index", "image_ids"):
            made[name] = torch.zeros(shape, dtype=torch.long)
        elif name == "candidate_ids":
            made[name] = torch.zeros(shape, dtype=torch.long)
        elif name == "answers_per_question":
            made[name] = per_question(shape, case.shapes.get("answer_input_ids", (1,)))
        else:
            made[name] = torch.rand(shape, generator=generator)
    return made


def per_question(shape: tuple[int, ...], answers: tuple[int, ...]) -> torch.Tensor:
    """Counts that sum to the answers, all of the first question but for one each of the others."""
    counts = torch.zeros(shape, dtype=torch.long)
    if counts.numel() and answers:
        counts.view(-1)[0] = answers[0]
    return counts


def is_right(case: Case) -> bool:
    """Whether the shapes are those of the docstrings, by solving for the sizes of the letters."""
    given, letters = case.shapes, dict[str, set[int]]()
    if case.call in ("retrieval", "pretraining") and "image_ids" not in given:
        candidates = set[str]()  # no training: they are not looked at
        given = {name: shape for name, shape in given.items() if name not in CANDIDATES or name in candidates}
    if case.call == "answers" and "answer_input_ids" not in given:
        given = {name: shape for name, shape in given.items() if name not in ANSWERS}
    if any(len(shape) != len(CALLS[case.call][name]) for name, shape in given.items()):
        return False
    for name, shape in given.items():
        pattern = CALLS[case.call][name]
        if case.call in ("retrieval", "pretraining") and "image_ids" not in given:
            pattern = pattern.replace("B", "I") if name == "pixel_values" else pattern
        for letter, size in zip(pattern, shape, strict=True):
            letters.setdefault(letter, set()).add(size)
    fixed = {letter: {FIXED[letter]} for letter in letters if letter in FIXED}
    if any(len(found) > 1 or 0 in found for found in letters.values()) or fixed != {
        letter: letters[letter] for letter in fixed
    }:
        return False
    size = {letter: next(iter(found)) for letter, found in letters.items()}
    length = size.get("L", 0)
    if case.call == "rank":  # [CLS] at least before, and [SEP], which has nothing after it, is not read
        if length < 2:
            return False
        length -= 1
    if case.call != "match" and max(length, size.get("M", 0)) > LONGEST:  # states have their positions already
        return False
    given_candidates = [name in given for name in ("image_candidates", "text_candidates", "candidate_ids")]
    if any(given_candidates) and (not all(given_candidates) or size["C"] < size["B"]):
        return False
    if "mlm_labels" in given and "masked_input_ids" not in given:
        return False
    if "answer_input_ids" in given and "answers_per_question" not in given and size["A"] % size["B"]:
        return False
    rows = size.get("N", size.get("B", 0))
    if case.call in ("pretraining",) and "masked_input_ids" in given and rows % size.get("I", size["B"]):
        return False
    if case.call in ("match", "questions", "answers", "rank", "generate"):
        return "image_index" in given or rows % size["I"] == 0
    return True


def call(case: Case) -> dict[str, torch.Tensor]:
    network, inputs = model(case.call), values(case)
    if case.call == "images":
        return dict(network.get_image_features(**inputs))
    if case.call == "texts":
        return dict(network.get_text_features(**inputs))
    if case.call == "match":
        return {"itm_logits": network.match(**inputs)}
    if case.call == "rank":
        parts = {name.split(".")[1]: inputs.pop(name) for name in list(inputs) if "." in name}
        parts.setdefault("attention_mask", torch.ones_like(parts["input_ids"]))
        inputs.setdefault("attention_mask", None)
        return dict(network.rank_answers(**inputs, candidates=parts, k=2, best_only=case.seed == 3))
    if case.call == "generate":
        return {"sequences": network.generate(**inputs, max_new_tokens=2)}
    if case.call != "questions":
        inputs["alpha"] = 0.4 * (case.seed % 2)
    return dict(network(**{name: value for name, value in inputs.items() if case.call != "score" or name != "alpha"}))


def documented(case: Case) -> dict[str, tuple[int, ...]]:
    """Shapes of the outputs."""
    shapes = case.shapes
    images, tokens = shapes.get("pixel_values", (0,))[0], 1 + (SIDE // PATCHES) ** 2
    rows = shapes.get("input_ids", shapes.get("text_hidden_states", (0, 0)))
    states, image_states = (*rows[:2], WIDTH), (images, tokens, WIDTH)
    if case.call == "images":
        return {"last_hidden_state": image_states, "pooler_output": (images, EMBED)}
    if case.call == "texts":
        return {"last_hidden_state": states, "pooler_output": (rows[0], EMBED)}
    if case.call == "match":
        return {"itm_logits": (rows[0], 2)}
    if case.call == "rank":
        k = min(2, shapes["candidates.input_ids"][0]) if case.seed != 3 else 1
        ids = {"ids": (rows[0], k)}
        return ids if case.seed == 3 else ids | {"probabilities": (rows[0], k)}
    if case.call in ("questions", "answers"):
        outputs = {"question_hidden_states": states, "image_hidden_states": image_states}
        if "answer_input_ids" in shapes:
            outputs |= {"loss": (), "logits": (*shapes["answer_input_ids"], WORDS)}
        return outputs
    outputs = {"image_embeds": (images, EMBED), "text_embeds": (rows[0], EMBED)}
    outputs |= {"image_hidden_states": image_states, "text_hidden_states": states}
    if "image_ids" in shapes:
        candidates = shapes.get("candidate_ids", (images,))[0]
        outputs |= dict.fromkeys(("logits_per_image", "logits_per_text"), (images, candidates))
        outputs |= {"loss": (), "itc_loss": (), "itm_loss": (), "itm_logits": (3 * images, 2)}
        outputs["multimodal_hidden_states"] = (3 * images, *states[1:])
    else:
        outputs |= {"logits_per_image": (images, rows[0]), "logits_per_text": (rows[0], images)}
        outputs["itm_logits"] = (images, rows[0], 2)
    if "masked_input_ids" in shapes:
        outputs["mlm_logits"] = (*rows, WORDS)
    if "mlm_labels" in shapes:
        outputs |= {"mlm_loss": (), "loss": ()}
    return outputs


def check_case(case: Case) -> None:
    if is_right(case):
        with torch.no_grad():
            outputs = {name: value for name, value in call(case).items() if isinstance(value, torch.Tensor)}
        sequences = outputs.pop("sequences", None)
        assert sequences is None or sequences.shape[0] == case.shapes["input_ids"][0]
        if case.call != "generate":
            assert {name: tuple(value.shape) for name, value in outputs.items()} == documented(case)
        assert all(value.isfinite().all() for value in outputs.values())
        return
    with pytest.raises(ValueError) as error, torch.no_grad():
        call(case)
    message, names = str(error.value), [name.split(".")[-1] for name in case.shapes]
    assert "\n" not in message
    if "reads" not in message and "is empty" not in message:  # a text that is too long, a candidate without a word
        assert any(name in message for name in (*names, "image_index", "answers_per_question")), message


@pytest.mark.parametrize("count", COUNTS)
def test_shapes(count: int) -> None:
    fuzz(count, cases(), check_case)
