"""What users do with a head: the library's plain Trainer, adapters, a larger vocabulary, answers that are written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from head_cases import ANSWERS, HEADS, LENGTHS, inputs, make_head, pad_left, targets
from peft import LoraConfig, get_peft_model
from PIL import Image
from small_models import save_retrieval, save_vqa
from torch.nn import functional as F  # noqa: N812, the field's own name
from transformers import Trainer, TrainingArguments

from modeling_albef import AlbefForPreTraining, AlbefForQuestionAnswering, AnswerTree
from processing import AlbefProcessor, RetrievalCollator, VQACollator

every_head = pytest.mark.parametrize("head", HEADS)


def _trainer(model: Any, folder: Path, batch: dict[str, Any], **options: Any) -> Trainer:
    """A plain Trainer whose every batch is `batch`."""
    arguments = {"per_device_train_batch_size": 3, "per_device_eval_batch_size": 3, "use_cpu": True, **options}
    return Trainer(
        model,
        TrainingArguments(str(folder), remove_unused_columns=False, save_strategy="no", **arguments),
        data_collator=lambda rows: {**batch},
        train_dataset=[{"row": index} for index in range(3)],
        eval_dataset=[{"row": index} for index in range(3)],
    )


@every_head
def test_the_plain_trainer_evaluates_and_trains(head: Any, tmp_path: Path) -> None:
    model, batch = make_head(head), {**inputs(), **targets(head)}
    expected = model(**batch).loss.item()
    trainer = _trainer(model, tmp_path, batch, max_steps=3, learning_rate=1e-3, gradient_accumulation_steps=1)
    assert trainer.evaluate()["eval_loss"] == pytest.approx(expected, rel=1e-5)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trainer.train()
    assert any(not torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert trainer.evaluate()["eval_loss"] < expected


def test_the_plain_trainer_evaluates_pre_training_without_masked_words(tmp_path: Path) -> None:
    model, batch = make_head(AlbefForPreTraining), {**inputs(), "image_ids": torch.arange(3)}
    trainer = _trainer(model, tmp_path, batch, label_names=["image_ids"])
    assert trainer.evaluate()["eval_loss"] == pytest.approx(model(**batch).loss.item(), rel=1e-5)


def test_the_plain_trainer_hands_labels_and_logits_to_metrics(tmp_path: Path) -> None:
    model, seen = make_head(AlbefForQuestionAnswering), []
    trainer = _trainer(model, tmp_path, {**inputs(), "labels": ANSWERS})
    trainer.compute_metrics = lambda pair: seen.append(pair) or {"rows": len(pair.label_ids)}  # type: ignore[func-returns-value]
    assert trainer.evaluate()["eval_rows"] == 3
    assert seen[0].predictions.shape == (3, 4, 64)  # and not the states of images, which fill the memory
    assert (seen[0].label_ids == ANSWERS.numpy()).all()


@pytest.mark.parametrize("task", ["retrieval", "vqa"])
def test_the_plain_trainer_takes_the_collators(task: str, tmp_path: Path) -> None:
    save, collator_class = {"retrieval": (save_retrieval, RetrievalCollator), "vqa": (save_vqa, VQACollator)}[task]
    model = save(tmp_path)
    collator = collator_class(AlbefProcessor.from_pretrained(tmp_path))
    colors = {"red": (255, 0, 0), "blue": (0, 0, 255), "green": (0, 255, 0)}
    rows = [
        {"image": Image.new("RGB", (40, 40), color), "image_id": index, "caption": f"a {name} circle"}
        | {"question": "what color is the circle?", "answers": [name, name, "star"]}
        for index, (name, color) in enumerate(colors.items())
    ]
    with torch.no_grad():
        expected = model(**collator(rows)).loss.item()
    arguments = TrainingArguments(
        str(tmp_path), remove_unused_columns=False, use_cpu=True, max_steps=3, save_strategy="no", learning_rate=1e-4
    )
    trainer = Trainer(model, arguments, data_collator=collator, train_dataset=rows, eval_dataset=rows)
    assert trainer.evaluate()["eval_loss"] == pytest.approx(expected, rel=1e-4)
    trainer.train()
    assert trainer.evaluate()["eval_loss"] < expected


@every_head
def test_lora_for_feature_extraction(head: Any, tmp_path: Path) -> None:
    model, batch = make_head(head), {**inputs(), **targets(head)}
    expected = model(**batch).loss
    config = LoraConfig(task_type="FEATURE_EXTRACTION", target_modules=["query", "value", "qkv"], r=2)
    adapted = get_peft_model(model, config)
    torch.testing.assert_close(adapted(**batch).loss, expected)  # an adapter starts as nothing
    _trainer(adapted, tmp_path, batch, max_steps=2, learning_rate=1e-2).train()
    assert adapted.eval()(**batch).loss < expected
    states = adapted(**batch, output_hidden_states=True, output_attentions=True)
    assert states.hidden_states is not None and states.attentions is not None


def test_labels_are_the_answers_under_another_name() -> None:
    model, batch = make_head(AlbefForQuestionAnswering), inputs()
    mask = (ANSWERS != -100).long()
    answers = {"answer_input_ids": ANSWERS * mask, "answer_attention_mask": mask}
    weights = {"answer_weights": torch.tensor([0.2, 0.3, 0.5]), "answers_per_question": torch.tensor([2, 0, 1])}
    expected = model(**batch, **answers, **weights)
    found = model(**batch, labels=ANSWERS, **weights)
    torch.testing.assert_close(found.loss, expected.loss)
    torch.testing.assert_close(found.logits[mask.bool()], expected.logits[mask.bool()])
    losses = F.cross_entropy(found.logits[:, :-1].transpose(1, 2), ANSWERS[:, 1:], reduction="none", ignore_index=-100)
    torch.testing.assert_close(found.loss, (losses.sum(1) * weights["answer_weights"]).sum() / 3)
    counted = ANSWERS.masked_fill(ANSWERS == 2, -100)  # beside the answers: what of them is counted
    both = model(**batch, **answers, labels=counted, **weights)
    assert torch.equal(both.logits, expected.logits)
    kept = losses.masked_fill(counted[:, 1:] == -100, 0.0)
    torch.testing.assert_close(both.loss, (kept.sum(1) * weights["answer_weights"]).sum() / 3)
    with pytest.raises(ValueError, match=r"labels has the shape \(3, 3\), .*with A = 3, L = 4"):
        model(**batch, **answers, labels=counted[:, 1:])


def test_answers_may_be_padded_on_the_left() -> None:
    model, batch = make_head(AlbefForQuestionAnswering), inputs()
    right = ANSWERS
    left = torch.stack([row.roll(int((row == -100).sum())) for row in ANSWERS])
    assert left[0].tolist() == [-100, 1, 9, 2]
    torch.testing.assert_close(model(**batch, labels=left).loss, model(**batch, labels=right).loss)
    mask = (left != -100).long()
    trees = [AnswerTree.from_tokens(rows.clamp(min=0), (rows != -100).long()) for rows in (left, right)]
    ranked = [model.rank_answers(**batch, candidates=tree, k=3).probabilities for tree in trees]
    assert torch.equal(*ranked)
    states = model.encode_questions(**batch)[0]
    padded = model.text_decoder(left * mask, mask, states, batch["attention_mask"])
    plain = model.text_decoder(left[:1, 1:], None, states[:1], batch["attention_mask"][:1])
    torch.testing.assert_close(padded.logits[0, 1:], plain.logits[0], atol=1e-5, rtol=1e-4)
    labels = left.masked_fill(left == 1, -100)  # the start is given, not predicted
    losses = F.cross_entropy(padded.logits[:, :-1].transpose(1, 2), labels[:, 1:], reduction="none", ignore_index=-100)
    options = {"encoder_attention_mask": batch["attention_mask"], "labels": labels}
    found = model.text_decoder(left * mask, mask, states, **options).loss
    torch.testing.assert_close(found, losses.sum() / (labels != -100).sum())
    beside = {"answer_input_ids": left * mask, "answer_attention_mask": mask}
    torch.testing.assert_close(model(**batch, **beside, labels=labels).loss, model(**batch, labels=right).loss)


def test_the_decoder_honours_positions() -> None:
    model = make_head(AlbefForQuestionAnswering)
    decoder, states = model.text_decoder, model.encode_questions(**inputs())[0]
    ids = ANSWERS[1:]
    expected = decoder(ids, encoder_hidden_states=states[1:]).logits
    assert torch.equal(
        decoder(ids, encoder_hidden_states=states[1:], position_ids=torch.arange(4)[None]).logits, expected
    )
    moved = decoder(ids, encoder_hidden_states=states[1:], position_ids=torch.arange(4)[None] + 5).logits
    assert not torch.allclose(moved, expected, atol=1e-3)
    with torch.no_grad():  # the same as other embeddings at the usual positions
        decoder.embeddings.position_embeddings.weight[:4] = decoder.embeddings.position_embeddings.weight[5:9].clone()
    torch.testing.assert_close(decoder(ids, encoder_hidden_states=states[1:]).logits, moved)
    words = decoder.get_input_embeddings()(ids)
    by_words = decoder(inputs_embeds=words, encoder_hidden_states=states[1:])
    torch.testing.assert_close(by_words.logits, moved)


@every_head
def test_a_larger_vocabulary(head: Any, tmp_path: Path) -> None:
    model, batch = make_head(head), {**inputs(), **targets(head)}
    with torch.no_grad():
        before = model(**batch)
        assert model.resize_token_embeddings(70).weight.shape == (70, 16)
        after = model(**batch)
    assert model.config.text_config.vocab_size == 70
    torch.testing.assert_close(after.image_hidden_states, before.image_hidden_states)
    torch.testing.assert_close(after.text_model_output.last_hidden_state, before.text_model_output.last_hidden_state)
    batch["input_ids"] = batch["input_ids"].masked_fill(batch["input_ids"] == batch["input_ids"][0, 2], 69)
    if head is AlbefForPreTraining:
        assert model.mlm_head.decoder.bias.shape == (70,) and after.mlm_logits.shape[-1] == 70
        assert model.mlm_head.decoder.weight is model.get_input_embeddings().weight
        torch.testing.assert_close(after.mlm_logits[..., :64], before.mlm_logits)
        batch["mlm_labels"] = batch["mlm_labels"].masked_fill(batch["mlm_labels"] != -100, 68)
    if head is AlbefForQuestionAnswering:
        decoder = model.text_decoder
        assert model.config.decoder_config.vocab_size == 70 and decoder.head.decoder.bias.shape == (70,)
        assert decoder.head.decoder.weight is decoder.get_input_embeddings().weight
        torch.testing.assert_close(after.logits[..., :64], before.logits)
        batch["labels"] = torch.tensor([[1, 68, 2], [1, 69, 2], [1, 5, 2]])
        ranked = model.rank_answers(**inputs(), k=3, candidates=AnswerTree.of(batch["labels"], torch.ones(3, 3)))
        torch.testing.assert_close(ranked.probabilities.sum(1), torch.ones(3))
        assert model.generate(**inputs(), max_new_tokens=3).shape[0] == 3
    expected = model(**batch).loss
    expected.backward()
    assert expected.isfinite() and model.get_input_embeddings().weight.grad[69].abs().sum() > 0
    model.save_pretrained(tmp_path)
    torch.testing.assert_close(head.from_pretrained(tmp_path)(**batch).loss, expected)


@pytest.mark.parametrize("options", [{}, {"num_beams": 3}, {"num_beams": 3, "num_return_sequences": 2}])
def test_written_answers_of_a_batch_are_those_of_its_rows(options: dict[str, Any]) -> None:
    model, batch = make_head(AlbefForQuestionAnswering), inputs()
    length, copies = {"max_new_tokens": 6, "min_new_tokens": 6}, options.get("num_return_sequences", 1)
    together = model.generate(**batch, **length, **options).unflatten(0, (3, copies))
    assert len(set(map(tuple, together.flatten(0, 1).tolist()))) > 1
    for row, n in enumerate(LENGTHS):
        one = (batch["pixel_values"][row : row + 1], batch["input_ids"][row : row + 1, :n])
        assert torch.equal(model.generate(*one, **length, **options), together[row])
    assert torch.equal(model.generate(**pad_left(batch), **length, **options).unflatten(0, (3, copies)), together)
    words = model.get_input_embeddings()(batch["input_ids"])
    by_words = model.generate(
        batch["pixel_values"], None, batch["attention_mask"], inputs_embeds=words, **length, **options
    )
    assert torch.equal(by_words.unflatten(0, (3, copies)), together)
    question = model.encode_questions(**batch)[0]  # the decoder alone, given states that a search repeats for its beams
    alone = model.text_decoder.generate(
        torch.full((3, 1), 1),
        encoder_hidden_states=question,
        encoder_attention_mask=batch["attention_mask"],
        eos_token_id=2,
        pad_token_id=0,
        **length,
        **options,
    )
    assert torch.equal(alone.unflatten(0, (3, copies)), together)


def test_questions_are_projected_once_for_all_tokens() -> None:
    model, runs = make_head(AlbefForQuestionAnswering), []
    model.text_decoder.layer[0].crossattention.self.key.register_forward_hook(lambda *_: runs.append(1))
    model.generate(**inputs(), max_new_tokens=5, min_new_tokens=5, num_beams=2)
    assert len(runs) == 1


def test_generation_follows_its_configuration() -> None:
    model, batch = make_head(AlbefForQuestionAnswering), inputs()
    model.generation_config.max_new_tokens = model.generation_config.min_new_tokens = 3
    assert model.generate(**batch).shape == (3, 4)
    assert model.generate(**batch, max_new_tokens=5, min_new_tokens=5).shape == (3, 6)
    found = model.generate(**batch, return_dict_in_generate=True, output_scores=True, output_attentions=True)
    assert len(found.scores) == 3 and found.sequences.shape == (3, 4)
    assert [tuple(part.shape) for part in found.attentions[2]] == [(3, 2, 1, 3)] * 2
    with pytest.raises(ValueError, match="no_such_argument"):
        model.generate(**batch, no_such_argument=1)


@every_head
def test_a_model_without_a_checkpoint_and_on_no_device(head: Any, tmp_path: Path) -> None:
    """A configuration alone starts at random; to load weights onto the meta device is the caller's error."""
    model = make_head(head)
    fresh = head.from_pretrained(None, config=model.config, state_dict={})
    assert all(value.isfinite().all() and value.device.type == "cpu" for value in fresh.state_dict().values())
    model.save_pretrained(tmp_path)
    with torch.device("meta"), pytest.raises(RuntimeError, match="meta device"):
        head.from_pretrained(tmp_path)
