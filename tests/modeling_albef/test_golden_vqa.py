"""Question answering equals the recorded step and ranking of the public implementation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from golden_cases import INDEX, assert_after, assert_gradients, load_case, tiny_config
from golden_vqa_cases import answers_of, build, inputs_of

from modeling_albef import AlbefConfig, AlbefForImageTextRetrieval, AlbefForQuestionAnswering
from modeling_albef.losses_albef import answer_loss
from modeling_albef.training import MomentumTeacher

CASES = ["vqa_distill", "vqa_plain"]


def rank(model: AlbefForQuestionAnswering, case: dict[str, torch.Tensor], **options: Any) -> Any:
    return model.eval().rank_answers(
        **inputs_of(case),
        candidates={name: case[f"candidate_{name}"] for name in ("input_ids", "attention_mask")},
        **{"k": int(case["rank_k"]), **options},
    )


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", CASES)
def test_states_logits_loss_and_gradients(name: str, attention: str) -> None:
    case, checkpoint = load_case(name)
    assert checkpoint.leftover == []
    model = build(checkpoint).train()
    model.set_attn_implementation(attention)
    batch, distillation = {**inputs_of(case), **answers_of(case)}, {}
    if name == "vqa_distill":
        twin = AlbefForQuestionAnswering(tiny_config())
        twin.load_state_dict(checkpoint.teacher)
        teacher = MomentumTeacher(model, INDEX["model"]["momentum"], twin)
        teacher.update(model)
        with torch.no_grad():
            distillation = {"teacher_logits": teacher.model(**batch).logits, "alpha": INDEX["model"]["alpha"]}
        assert_after(case, teacher)
    outputs = model(**batch, **distillation)
    torch.testing.assert_close(outputs.question_hidden_states, case["question_states"], atol=1e-5, rtol=0)
    torch.testing.assert_close(outputs.logits, case["answer_logits"], atol=1e-5, rtol=0)
    torch.testing.assert_close(outputs.loss, case["loss"], atol=1e-5, rtol=0)

    outputs.loss.backward()
    assert_gradients(model, case)


@pytest.mark.parametrize("name", CASES)
def test_recorded_ranking(name: str) -> None:
    case, checkpoint = load_case(name)
    ranked = rank(build(checkpoint), case)
    assert torch.equal(ranked.ids, case["topk_ids"])
    torch.testing.assert_close(ranked.probabilities, case["topk_probs"], atol=1e-6, rtol=0)


def test_counting_the_first_token_once_ranks_by_the_whole_probability() -> None:
    case, checkpoint = load_case("vqa_plain")
    model = build(checkpoint)
    count = len(case["candidate_input_ids"])
    ranked = rank(model, case, k=1000, count_first_token_twice=False)  # clipped to the list
    assert ranked.ids.shape == (3, count)
    question = model.encode_questions(**inputs_of(case))[0]
    for row in range(3):  # plain oracle: each candidate alone, without padding
        expected = []
        for ids, mask in zip(case["candidate_input_ids"], case["candidate_attention_mask"], strict=True):
            tokens = ids[mask.bool()][None]
            length = int(case["question_attention_mask"][row].sum())
            logits = model.text_decoder(tokens, encoder_hidden_states=question[row : row + 1, :length]).logits
            expected.append(logits[0, :-1].log_softmax(-1).gather(1, tokens[0, 1:, None]).sum())
        probabilities = torch.stack(expected).softmax(0)
        torch.testing.assert_close(ranked.probabilities[row], probabilities[ranked.ids[row]], atol=1e-5, rtol=0)


def test_questions_of_one_image_share_it() -> None:
    case, checkpoint = load_case("vqa_plain")
    model = build(checkpoint).eval()
    index = torch.tensor([0, 0, 1])
    inputs = inputs_of(case)
    shared = model(**{**inputs, "pixel_values": inputs["pixel_values"][:2]}, image_index=index).question_hidden_states
    repeated = model(**{**inputs, "pixel_values": inputs["pixel_values"][index]}).question_hidden_states
    torch.testing.assert_close(shared, repeated, atol=1e-6, rtol=0)


def test_answer_loss_in_closed_form() -> None:
    vocabulary, logits = 5, torch.zeros(2, 4, 5)  # every token costs log 5, whatever the teacher says
    ids, mask = torch.tensor([[1, 3, 2, 0], [1, 4, 4, 2]]), torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]])
    weights = torch.tensor([0.7, 0.3])
    expected = (0.7 * 2 + 0.3 * 3) * torch.log(torch.tensor(float(vocabulary))) / 2
    torch.testing.assert_close(answer_loss(logits, ids, mask, weights, 2), expected)
    torch.testing.assert_close(answer_loss(logits, ids, mask, weights, 2, torch.randn(2, 4, 5), 0.4), expected)


@pytest.mark.parametrize("options", [{}, {"num_beams": 3}])
def test_generation_with_and_without_cache(options: dict[str, Any]) -> None:
    case, checkpoint = load_case("vqa_plain")
    model = build(checkpoint).eval()
    with pytest.raises(ValueError, match="bos_token_id"):
        model.generate(**inputs_of(case))
    model.config.decoder_config.bos_token_id, model.config.decoder_config.eos_token_id = 1, 2
    cached = model.generate(**inputs_of(case), max_new_tokens=5, **options)
    assert torch.equal(cached, model.generate(**inputs_of(case), max_new_tokens=5, use_cache=False, **options))
    assert (cached[:, 0] == 1).all()
    if not options:  # greedy: every token is the likeliest after those before it
        question = model.encode_questions(**inputs_of(case))[0]
        logits = model.text_decoder(
            cached, encoder_hidden_states=question, encoder_attention_mask=case["question_attention_mask"]
        ).logits
        for row, best in zip(cached.tolist(), logits.argmax(-1).tolist(), strict=True):
            end = row.index(2) if 2 in row else len(row) - 1
            assert row[1 : end + 1] == best[:end]


def test_decoder_starts_from_the_fusion_layers(tmp_path: Path) -> None:
    retrieval = AlbefForImageTextRetrieval(tiny_config())
    retrieval.save_pretrained(tmp_path)
    model = AlbefForQuestionAnswering.from_pretrained(tmp_path)
    source = retrieval.albef.text_model
    for layer, fusion in zip(model.text_decoder.layer, source.encoder.fusion_layers, strict=True):
        assert torch.equal(layer.attention.self.query.weight, fusion.attention.self.query.weight)
        assert torch.equal(layer.crossattention.self.query.weight, fusion.crossattention.self.query.weight)
        assert layer.crossattention.self.key.weight.shape[1] == 16  # reads text; the fusion layer reads wider images
    embeddings = model.text_decoder.embeddings.word_embeddings.weight
    assert torch.equal(embeddings, source.embeddings.word_embeddings.weight)
    assert model.text_decoder.head.decoder.weight is embeddings  # still tied
    model.save_pretrained(tmp_path / "vqa")
    again = AlbefForQuestionAnswering.from_pretrained(tmp_path / "vqa")
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())


def test_untied_output_is_kept(tmp_path: Path) -> None:
    config = AlbefConfig.from_dict(AlbefForQuestionAnswering(tiny_config()).config.to_dict())
    config.decoder_config.tie_word_embeddings = False
    model = AlbefForQuestionAnswering(config)
    assert model.text_decoder.head.decoder.weight is not model.text_decoder.embeddings.word_embeddings.weight
    model.save_pretrained(tmp_path)
    again = AlbefForQuestionAnswering.from_pretrained(tmp_path)
    assert torch.equal(again.text_decoder.head.decoder.weight, model.text_decoder.head.decoder.weight)


def test_published_size() -> None:
    with torch.device("meta"):
        model = AlbefForQuestionAnswering(AlbefConfig())
    assert sum(p.numel() for p in model.parameters()) == 290_336_058
    assert (model.config.decoder_config.bos_token_id, model.config.decoder_config.eos_token_id) == (101, 102)
