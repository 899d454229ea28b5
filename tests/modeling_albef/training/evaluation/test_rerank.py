"""By what candidates are ordered: the matching head, the similarity, or a sum of both."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from small_models import save_retrieval
from transformers import BertConfig, BertModel, ViTConfig, ViTModel, pipeline

from modeling_albef import AlbefConfig, AlbefError, AlbefForImageTextRetrieval
from modeling_albef.index_albef import rerank_scores
from modeling_albef.training import RetrievalTrainer, RetrievalTrainingArguments, SettingError
from modeling_albef.training.evaluation.ranking import pair_similarity
from modeling_albef.training.evaluation.retrieval import RERANK_WEIGHTS, RetrievalEvaluator
from processing import AlbefProcessor

CAPTIONS = ["a blue circle", "a green star", "what is left of a red square", "a red square", "a green circle above it"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rerank")
    save_retrieval(folder)
    return folder


def rows(count: int = 20) -> list[dict[str, Any]]:
    generator = np.random.default_rng(1)
    pixels = generator.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
    captions = [f"{CAPTIONS[n % 5]} {CAPTIONS[(n // 5 + 2 * n) % 5]}" for n in range(count)]
    return [{"image": pixels[n], "caption": captions[n], "image_id": n} for n in range(count)]


def evaluated(folder: Path, weight: Any, k_test: int = 9) -> Any:
    model, processor = AlbefForImageTextRetrieval.from_pretrained(folder), AlbefProcessor.from_pretrained(folder)
    return RetrievalEvaluator(model, processor, k_test=k_test, rerank_weight=weight)(rows())


def test_scores_by_hand() -> None:
    similarity, logits = torch.tensor([0.5, -0.25]), torch.tensor([2.0, -4.0])
    assert rerank_scores(similarity, logits, 0.1, None).tolist() == [2.0, -4.0]
    assert rerank_scores(similarity, logits, 0.1, 0.0).tolist() == [0.5, -0.25]
    torch.testing.assert_close(rerank_scores(similarity, logits, 0.1, 0.5), torch.tensor([6.0, -4.5]))


def test_similarity_of_pairs_is_their_product() -> None:
    images, texts = torch.randn(7, 5), torch.randn(9, 5)
    pairs = torch.cartesian_prod(torch.arange(7), torch.arange(9))
    expected = (images @ texts.T).flatten()
    torch.testing.assert_close(pair_similarity(pairs, images, texts, block_size=10), expected)


def test_without_the_head_the_recalls_are_those_of_the_first_stage(folder: Path) -> None:
    result = evaluated(folder, 0.0)
    for direction in ("txt", "img"):
        for depth in (1, 5):
            name = f"{direction}_r{depth}"
            assert result.metrics[name] == result.details[f"{direction}_first_stage_r{depth}"]
    assert result.details["rerank_weight"] == 0


def test_every_weight_orders_by_its_sum(folder: Path) -> None:
    """Against all pairs, scored by the model's own forward."""
    model, processor = AlbefForImageTextRetrieval.from_pretrained(folder), AlbefProcessor.from_pretrained(folder)
    given = rows()
    batch = processor(
        [row["image"] for row in given], [row["caption"] for row in given], return_tensors="pt", padding=True
    )
    with torch.no_grad():
        outputs = model(**batch)
    cosine = outputs.image_embeds @ outputs.text_embeds.T
    for weight in (None, 0.0, 0.5, 4.0):
        result = evaluated(folder, weight, k_test=20)
        scores = outputs.itm_logits[..., 1] if weight is None else cosine
        if weight:
            scores = outputs.logits_per_image + weight * outputs.itm_logits[..., 1]
        best = scores.topk(5, dim=1)
        torch.testing.assert_close(result.image_to_text.scores[:, :5], best.values, atol=1e-4, rtol=1e-4)
        best = scores.T.topk(5, dim=1)
        torch.testing.assert_close(result.text_to_image.scores[:, :5], best.values, atol=1e-4, rtol=1e-4)


def test_auto_takes_the_best_of_all_and_says_which(folder: Path) -> None:
    chosen = evaluated(folder, "auto")
    alone = {weight: evaluated(folder, weight).metrics["r_mean"] for weight in RERANK_WEIGHTS}
    assert list(chosen.details["rerank_weights"].values()) == pytest.approx(list(alone.values()))
    assert chosen.metrics["r_mean"] == max(alone.values()) >= alone[0.0]
    assert alone[chosen.details["rerank_weight"]] == chosen.metrics["r_mean"]
    assert set(alone.values()) != {chosen.metrics["r_mean"]}


def make(folder: Path, out: Path, model: Any = None, **changes: Any) -> RetrievalTrainer:
    model = AlbefForImageTextRetrieval.from_pretrained(folder) if model is None else model
    args = RetrievalTrainingArguments(str(out), use_cpu=True, report_to="none", queue_size=0, k_test=9, **changes)
    return RetrievalTrainer(model, args, processing_class=AlbefProcessor.from_pretrained(folder), eval_dataset=rows())


def test_the_choice_on_validation_data_holds_for_the_test_and_the_saved_model(folder: Path, tmp_path: Path) -> None:
    trainer = make(folder, tmp_path, rerank="auto")
    before = trainer.evaluate(rows(), metric_key_prefix="test")  # nothing was chosen: the similarity
    assert (
        before["test_r_mean"] == evaluated(folder, 0.0).metrics["r_mean"] and trainer.model.config.rerank_weight is None
    )
    metrics = trainer.evaluate()
    weight = trainer.model.config.rerank_weight
    assert metrics["eval_r_mean"] == evaluated(folder, weight).metrics["r_mean"]
    assert trainer.evaluate(rows(), metric_key_prefix="test")["test_r_mean"] == metrics["eval_r_mean"]
    trainer.save_model(str(tmp_path / "saved"))
    assert AlbefForImageTextRetrieval.from_pretrained(tmp_path / "saved").config.rerank_weight == weight


def test_with_auto_every_split_has_the_recalls_of_all_stages(folder: Path, tmp_path: Path) -> None:
    """Of similarity, head and sum, whatever was chosen; against evaluations that order by one of them alone."""
    trainer = make(folder, tmp_path, rerank="auto")
    names = [f"{direction}_r{depth}" for direction in ("txt", "img") for depth in (1, 5, 10)]
    alone = {weight: evaluated(folder, weight) for weight in RERANK_WEIGHTS}
    best = max((weight for weight in RERANK_WEIGHTS if weight), key=lambda weight: alone[weight].metrics["r_mean"])
    cases: list[tuple[str, Any, Any]] = [
        ("eval", None, best),
        ("test", 0.0, None),
        ("test", 2.0, 2.0),
        ("test", None, None),
    ]
    for split, chosen, sum_weight in cases:
        trainer.model.config.rerank_weight = chosen
        trainer.evaluated_split = split
        result = trainer.evaluate_dataset(rows())
        for name in names:
            stage = name.replace("_r", "_{}_r")
            assert result.details[stage.format("matching")] == alone[None].metrics[name]
            assert result.details[stage.format("first_stage")] == alone[0.0].details[stage.format("first_stage")]
            assert result.details.get(stage.format("sum")) == (alone[sum_weight].metrics[name] if sum_weight else None)


def test_the_head_alone_where_it_was_chosen_orders_the_test_too(folder: Path, tmp_path: Path) -> None:
    """On pairs that the head itself picked, beside similarities that no sum outweighs."""
    trainer = make(folder, tmp_path, rerank="auto", min_temperature=1e-6)
    with torch.no_grad():
        trainer.model.albef.temperature.fill_(1e-5)
    given, model, processor = rows(), trainer.model, trainer.processing_class
    captions = [row["caption"] for row in given]
    batch = processor([row["image"] for row in given], captions, return_tensors="pt", padding=True)
    with torch.no_grad():
        logits = model.eval()(**batch).itm_logits[..., 1]
    for _ in given:
        image, text = divmod(int(logits.argmax()), len(given))
        given[image]["caption"] = captions[text]
        logits[image], logits[:, text] = -torch.inf, -torch.inf
    chosen = trainer.evaluate(given)
    assert (
        chosen["eval_r_mean"]
        > RetrievalEvaluator(model, processor, k_test=9, rerank_weight=4.0)(given).metrics["r_mean"]
    )
    assert model.config.rerank_weight is None
    assert trainer.evaluate(given, metric_key_prefix="test")["test_r_mean"] == chosen["eval_r_mean"]


def test_published_models_keep_the_published_order_by_default(folder: Path, tmp_path: Path) -> None:
    trainer = make(folder, tmp_path)
    assert trainer.evaluate()["eval_r_mean"] == evaluated(folder, None).metrics["r_mean"]
    assert trainer.model.config.rerank_weight is None
    never = make(folder, tmp_path, rerank="never")
    assert never.evaluate()["eval_r_mean"] == evaluated(folder, 0.0).metrics["r_mean"]
    assert never.model.config.rerank_weight == 0


def test_models_from_encoders_choose_by_default(folder: Path, tmp_path: Path) -> None:
    sizes: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    vit = ViTModel(ViTConfig(**sizes, intermediate_size=8, image_size=32, patch_size=16))
    tokens = len(AlbefProcessor.from_pretrained(folder).tokenizer)
    bert = BertModel(BertConfig(**sizes, intermediate_size=8, vocab_size=tokens))
    trainer = make(folder, tmp_path, AlbefForImageTextRetrieval.from_encoders(vit, bert))
    trainer.evaluate()
    assert trainer.model.config.rerank_weight in RERANK_WEIGHTS
    assert "rerank_weights" in trainer.evaluate_dataset(rows()).details


def test_pipeline_orders_as_the_model_says(folder: Path, tmp_path: Path) -> None:
    for number, row in enumerate(rows(6)):
        Image.fromarray(row["image"]).save(tmp_path / f"{number}.png")
    model = AlbefForImageTextRetrieval.from_pretrained(folder)
    search: Any = pipeline("image-text-retrieval", model=model, processor=AlbefProcessor.from_pretrained(folder))
    search.index_images(str(tmp_path))
    found = {}
    for weight in (None, 0.0, 2.0):
        model.config.rerank_weight = weight
        found[weight] = search(text="a blue circle", top_k=6)
    logit = {one["image"]: one["score"] for one in found[None]}
    assert [one["similarity"] for one in found[0.0]] == sorted((one["similarity"] for one in found[0.0]), reverse=True)
    assert "score" not in found[0.0][0]
    temperature = float(model.albef.temperature)
    for one in found[2.0]:
        assert one["score"] == pytest.approx(one["similarity"] / temperature + 2 * logit[one["image"]], abs=1e-4)
    assert [one["score"] for one in found[2.0]] == sorted((one["score"] for one in found[2.0]), reverse=True)


def test_refusals(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="rerank is 'sometimes'"):
        make(folder, tmp_path, rerank="sometimes")
    with pytest.raises(AlbefError, match="rerank_weight is -1"):
        AlbefConfig(rerank_weight=-1)
