"""What all heads share: arguments of the library's models, the attention that computes them, padding, batches."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import torch
from head_cases import HEADS, LENGTHS, inputs, make_head, pad_left, scores, targets
from torch.nn import functional as F  # noqa: N812, the field's own name
from transformers import AutoModelForPreTraining, AutoModelForVisualQuestionAnswering, PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.utils import is_flash_attn_2_available

from modeling_albef import (
    AlbefConfig,
    AlbefForImageTextClassification,
    AlbefForImageTextRetrieval,
    AlbefForPreTraining,
    AlbefForQuestionAnswering,
    AlbefModel,
)

every_head = pytest.mark.parametrize("head", HEADS)


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], atol: float = 2e-5) -> None:
    assert found.keys() == expected.keys() and found
    for name, value in expected.items():
        torch.testing.assert_close(
            found[name], value, atol=atol, rtol=1e-4, msg=lambda text, name=name: f"{name}: {text}"
        )


@every_head
@pytest.mark.parametrize("with_loss", [False, True])
def test_states_and_maps_of_both_towers(head: Any, with_loss: bool) -> None:
    model, batch = make_head(head), {**inputs(), **(targets(head) if with_loss else {})}
    asked = {"output_hidden_states": True, "output_attentions": True}
    outputs = model(**batch, **asked)
    vision, text = outputs.vision_model_output, outputs.text_model_output
    states = model.albef if head is not AlbefModel else model
    assert [tuple(state.shape) for state in vision.hidden_states] == [(3, 5, 24)] * 3
    assert [tuple(part.shape) for part in vision.attentions] == [(3, 3, 5, 5)] * 2
    torch.testing.assert_close(states.vision_model.norm(vision.hidden_states[-1]), outputs.image_hidden_states)
    embedded = states.text_model.embeddings(batch["input_ids"])
    torch.testing.assert_close(outputs.hidden_states[0], embedded)
    layers = 2 if head is AlbefModel else 4  # the fusion layers have to see an image
    assert (len(outputs.hidden_states), len(outputs.attentions)) == (layers + 1, layers)
    torch.testing.assert_close(text.hidden_states[2], outputs.hidden_states[2])
    layer = states.text_model.encoder.layer[0]
    masked = (1.0 - batch["attention_mask"][:, None, None]) * torch.finfo(torch.float32).min
    torch.testing.assert_close(layer(embedded, masked), outputs.hidden_states[1], atol=1e-5, rtol=1e-5)
    if head is AlbefModel:
        assert outputs.get("cross_attentions") is None
        return
    rows = len(outputs.cross_attentions[0])
    pairs = {AlbefForQuestionAnswering: 3, AlbefForImageTextClassification: 3}.get(
        head, 9
    )  # three images with three texts; or three pairs, six wrong ones
    assert rows == pairs and [tuple(part.shape) for part in outputs.cross_attentions] == [(rows, 2, 6, 5)] * 2
    for part in (*outputs.attentions, *outputs.cross_attentions, *vision.attentions):
        torch.testing.assert_close(part.sum(-1), torch.ones(part.shape[:-1]))
    if with_loss and head is AlbefForQuestionAnswering:
        assert [tuple(part.shape) for part in outputs.decoder_attentions] == [(3, 2, 4, 4)] * 2
        assert [tuple(part.shape) for part in outputs.decoder_cross_attentions] == [(3, 2, 4, 6)] * 2
        assert all((part.triu(1) == 0).all() for part in outputs.decoder_attentions)  # causal
        torch.testing.assert_close(model.text_decoder.head(outputs.decoder_hidden_states[-1]), outputs.logits)
        assert (outputs.decoder_cross_attentions[0][2, :, :, 3:] == 0).all()  # the padding of its question
    plain = model(**batch)
    assert plain.hidden_states is None and plain.vision_model_output.attentions is None
    assert_same(
        {"loss": outputs.loss} if with_loss else scores(outputs) or {"x": outputs.hidden_states[-1]},
        {"loss": plain.loss} if with_loss else scores(plain) or {"x": plain.question_hidden_states},
    )


@every_head
def test_the_configuration_asks_as_the_arguments_do(head: Any) -> None:
    model, batch = make_head(head), inputs()
    model.config.output_hidden_states = True
    by_config = model(**batch)
    assert len(by_config.hidden_states) == (3 if head is AlbefModel else 5)
    assert by_config.vision_model_output.hidden_states is not None
    assert model(**batch, output_hidden_states=False).hidden_states is None
    some = model(**batch, output_hidden_states=[0, -1]).hidden_states
    assert [state is not None for state in some] == [True, *[False] * (len(some) - 2), True]
    assert torch.equal(some[-1], by_config.hidden_states[-1])


@every_head
def test_a_tuple_starts_with_the_loss(head: Any) -> None:
    model, batch = make_head(head), {**inputs(), **targets(head)}
    outputs, parts = model(**batch), model(**batch, return_dict=False)
    assert isinstance(parts, tuple) and torch.equal(parts[0], outputs.loss)
    assert sum(isinstance(part, tuple) for part in parts) == 2  # what the towers gave
    model.config.return_dict = False
    assert torch.equal(model(**batch)[0], outputs.loss)


@every_head
def test_embeddings_and_positions_in_place_of_ids(head: Any) -> None:
    model, batch = make_head(head), inputs()
    expected = model(**batch).hidden_states, model(**batch, output_hidden_states=True).hidden_states
    ids = batch.pop("input_ids")
    words = model.get_input_embeddings()(ids)
    found = model(**batch, inputs_embeds=words, output_hidden_states=True).hidden_states
    assert expected[0] is None and all(torch.equal(a, b) for a, b in zip(found, expected[1], strict=True))
    positions = torch.arange(6).expand(3, 6)
    given = model(**batch, inputs_embeds=words, position_ids=positions, output_hidden_states=True).hidden_states
    assert torch.equal(given[-1], found[-1])
    other = model(**batch, inputs_embeds=words, position_ids=positions + 3, output_hidden_states=True).hidden_states
    assert not torch.allclose(other[-1], found[-1], atol=1e-3)
    with pytest.raises(ValueError, match="Give either input_ids or"):
        model(**batch, input_ids=ids, inputs_embeds=words)


@every_head
@pytest.mark.parametrize("with_loss", [False, True])
@pytest.mark.parametrize("name", ["eager", "flex_attention", "flash_attention_2"])
def test_all_attentions_agree(head: Any, with_loss: bool, name: str) -> None:
    if name.startswith("flash") and not (is_flash_attn_2_available() and torch.cuda.is_available()):
        pytest.skip("flash attention is not installed")
    flash = name.startswith("flash")
    device, dtype = ("cuda", torch.bfloat16) if flash else ("cpu", torch.float32)
    model = make_head(head).to(device, dtype)
    batch = {**inputs(), **(targets(head) if with_loss else {})}
    batch = {key: value.to(device) if isinstance(value, torch.Tensor) else value for key, value in batch.items()}
    with torch.no_grad():
        expected = _numbers(model(**batch), with_loss)
        model.set_attn_implementation(name)
        # the library compiles flex attention, which takes a minute; uncompiled it is the same arithmetic
        plain = torch.compiler.set_stance("force_eager") if name == "flex_attention" else contextlib.nullcontext()
        with plain:
            found = _numbers(model(**batch), with_loss)
    assert model.config._attn_implementation == name
    assert_same(found, expected, 5e-2 if flash else 1e-4)


@every_head
def test_masks_of_the_form_that_flash_attention_takes(head: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Flash attention needs a GPU; this one takes its masks (N, L) and computes the same, step by step."""
    shapes = []

    def attend(module: Any, query: Any, key: Any, value: Any, mask: Any, scaling: float, **_: Any) -> tuple[Any, None]:
        shapes.append(None if mask is None else mask.dim())
        seen = torch.ones(query.shape[2], key.shape[2], dtype=torch.bool)
        seen = seen.tril(key.shape[2] - query.shape[2]) if module.is_causal else seen
        seen = seen if mask is None else seen & mask.bool()[:, None, None]
        weights = (query @ key.mT * scaling).masked_fill(~seen, torch.finfo(query.dtype).min).softmax(-1)
        return (weights @ value).transpose(1, 2), None

    model, batch = make_head(head), {**inputs(), **targets(head)}
    expected = _numbers(model(**batch), True)
    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS, "flash_attention_2", attend)
    for part in (model, *(part for part in model.modules() if isinstance(part, PreTrainedModel))):
        part.config._attn_implementation_internal = "flash_attention_2"  # past the check that it is installed
    assert_same(_numbers(model(**batch), True), expected)
    assert_same(scores(model(**pad_left(batch))), {name: expected[name] for name in scores(model(**batch))})
    assert set(shapes) == {None, 2}


def _numbers(outputs: Any, with_loss: bool) -> dict[str, torch.Tensor]:
    found = scores(outputs)
    if outputs.get("question_hidden_states") is not None:
        found |= {"states": outputs.question_hidden_states[:, :3]}  # tokens of all
        found |= {"logits": outputs.logits[:, :3]} if with_loss else {}
    return found


@every_head
@pytest.mark.parametrize("with_loss", [False, True])
@pytest.mark.parametrize("name", ["sdpa", "eager"])
def test_padding_may_be_on_the_left(head: Any, with_loss: bool, name: str) -> None:
    model, batch = make_head(head), {**inputs(), **(targets(head) if with_loss else {})}
    model.set_attn_implementation(name)
    right, left = model(**batch), model(**pad_left(batch))
    found, expected = scores(left), scores(right)
    if head is AlbefForQuestionAnswering:
        found["states"] = torch.cat([row[6 - n :] for row, n in zip(left.question_hidden_states, LENGTHS, strict=True)])
        expected["states"] = torch.cat([row[:n] for row, n in zip(right.question_hidden_states, LENGTHS, strict=True)])
    assert_same(found, expected)


@every_head
def test_a_batch_is_its_rows(head: Any) -> None:
    model, batch = make_head(head), inputs()
    together = model(**batch, output_hidden_states=True)
    for row, length in enumerate(LENGTHS):
        one = {key: value[row : row + 1] for key, value in batch.items()}
        one = {**one, "input_ids": one["input_ids"][:, :length], "attention_mask": None}
        alone = model(**one, output_hidden_states=True)
        torch.testing.assert_close(
            alone.text_model_output.last_hidden_state[0],
            together.text_model_output.last_hidden_state[row, :length],
            atol=2e-5,
            rtol=1e-4,
        )
        torch.testing.assert_close(
            alone.image_hidden_states[0], together.image_hidden_states[row], atol=2e-5, rtol=1e-4
        )
        if "itm_logits" in together:
            torch.testing.assert_close(alone.itm_logits[0, 0], together.itm_logits[row, row], atol=1e-4, rtol=1e-4)


@every_head
def test_images_of_another_size(head: Any) -> None:
    model, batch = make_head(head), inputs()
    small = model(**batch)
    assert_same(
        scores(model(**batch, interpolate_pos_encoding=True)) | {"i": small.image_hidden_states},
        scores(small) | {"i": small.image_hidden_states},
        0.0,
    )
    batch["pixel_values"] = torch.randn(3, 3, 48, 48)
    with pytest.raises(ValueError, match=r"but the model takes \(32, 32\): .* interpolate_pos_encoding=True"):
        model(**batch)
    found = model(**batch, interpolate_pos_encoding=True).image_hidden_states
    wide = model(**{**batch, "pixel_values": batch["pixel_values"][..., :32]}, interpolate_pos_encoding=True)
    assert wide.image_hidden_states.shape == (3, 7, 24) and found.shape == (3, 10, 24)
    with pytest.raises(ValueError, match=r"images of \(48, 40\) pixels, but both sides must be multiples"):
        model(**{**batch, "pixel_values": batch["pixel_values"][..., :40]}, interpolate_pos_encoding=True)
    assert model.config.vision_config.image_size == 32  # for this call alone
    vision: Any = getattr(model, "albef", model).vision_model
    vision.resize_position_embeddings(48)
    torch.testing.assert_close(model(**batch).image_hidden_states, found)


@pytest.mark.parametrize("head", [AlbefModel, AlbefForImageTextRetrieval, AlbefForPreTraining])
def test_return_loss_takes_the_pairs_as_they_are(head: Any) -> None:
    model, batch = make_head(head), inputs()
    assert model(**batch).loss is None
    outputs = model(**batch, return_loss=True)
    logits, own = model(**batch).logits_per_image, torch.arange(3)
    expected = (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2
    torch.testing.assert_close(outputs.loss if head is AlbefModel else outputs.itc_loss, expected)
    if head is not AlbefModel:
        assert torch.equal(outputs.loss, model(**batch, image_ids=own).loss)
        assert torch.equal(outputs.loss, model(*batch.values(), None, return_loss=True).loss)
        scored = model(**batch, image_ids=own, return_loss=False)
        assert scored.loss is None and scored.itm_logits.shape == (3, 3, 2)
    with pytest.raises(ValueError, match=r"as many images as texts|is expected"):
        model(**{**batch, "pixel_values": batch["pixel_values"][:2]}, return_loss=True)


@pytest.mark.parametrize("head", [AlbefForImageTextRetrieval, AlbefForPreTraining])
def test_the_matching_head_may_be_left_out(head: Any) -> None:
    model, batch, runs = make_head(head), inputs(), []
    model.albef.text_model.encoder.layer[-1].register_forward_hook(lambda *_: runs.append(1))
    outputs = model(**batch, use_itm_head=False)
    assert outputs.itm_logits is None and not runs
    assert torch.equal(outputs.logits_per_image, model(**batch).logits_per_image) and len(runs) == 1
    trained = model(**batch, image_ids=torch.arange(3), use_itm_head=False)
    for lacking, named in (("input_ids", "no texts: give input_ids"), ("pixel_values", "no images: give pixel_values")):
        with pytest.raises(ValueError, match=named):
            model(**{**batch, lacking: None})
    assert trained.itm_loss is None and torch.equal(trained.loss, trained.itc_loss) and len(runs) == 1


@pytest.mark.parametrize("head", [AlbefForImageTextRetrieval, AlbefForPreTraining])
def test_negatives_of_an_evaluation_are_the_hardest(head: Any) -> None:
    model, batch = make_head(head), {**inputs(), "image_ids": torch.tensor([0, 1, 2])}
    outputs = model(**batch)
    assert len({model(**batch).loss.item() for _ in range(8)}) == 1
    logits = outputs.logits_per_image.masked_fill(torch.eye(3, dtype=torch.bool), float("-inf"))
    every = model(**inputs()).itm_logits
    wrong = torch.cat([every[logits.argmax(0), torch.arange(3)], every[torch.arange(3), logits.argmax(1)]])
    torch.testing.assert_close(outputs.itm_logits[3:], wrong, atol=1e-4, rtol=1e-4)


def test_text_configuration_of_either_end() -> None:
    config = make_head(AlbefForQuestionAnswering).config
    assert config.get_text_config(decoder=True) is config.decoder_config
    assert config.get_text_config() is config.get_text_config(encoder=True) is config.text_config
    assert config.get_text_config(decoder=True, encoder=True) is config.text_config
    plain = AlbefConfig()
    assert plain.get_text_config(decoder=True) is plain.text_config


def test_auto_classes_of_the_tasks(tmp_path: Any) -> None:
    for head, auto_class in (
        (AlbefForQuestionAnswering, AutoModelForVisualQuestionAnswering),
        (AlbefForPreTraining, AutoModelForPreTraining),
    ):
        make_head(head).save_pretrained(tmp_path / head.__name__)
        assert type(auto_class.from_pretrained(tmp_path / head.__name__)) is head
