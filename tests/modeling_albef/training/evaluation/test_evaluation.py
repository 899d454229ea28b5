"""The retrieval evaluation equals the recorded one, and does no more than it must."""

from __future__ import annotations

import io
import warnings
from typing import Any

import pytest
import torch
from golden_cases import INDEX, build, load_case, tiny_config
from PIL import Image

from modeling_albef import AlbefError, AlbefForImageTextRetrieval
from modeling_albef.training import RetrievalEvaluator, RetrievalResult, retrieval_metrics
from modeling_albef.training.evaluation.base import balance_load
from modeling_albef.training.evaluation.ranking import pairs_to_score, rank_candidates, select_candidates
from modeling_albef.training.evaluation.retrieval_metrics import rank_of_first_match
from modeling_albef.training.evaluation.vqa import group_questions
from processing import AlbefImageProcessor, AlbefProcessor, build_tokenizer


class RecordedProcessor:
    """Hands out recorded token ids and pixels in place of text and images; a caption is the number of its row."""

    def __init__(self, case: dict[str, torch.Tensor]) -> None:
        self.case = case

    def __call__(self, text: list[str] | None = None, images: list[int] | None = None, **_: Any) -> dict[str, Any]:
        if text is not None:
            rows = [int(caption) for caption in text]
            ids, mask = self.case["input_ids"], self.case["attention_mask"].bool()
            return {"input_ids": [ids[row][mask[row]].tolist() for row in rows]}
        return {"pixel_values": self.case["pixel_values"][torch.tensor(images)]}


class Gallery(list):
    """Rows that also answer by column, as a data set does."""

    def __getitem__(self, key: Any) -> Any:
        return [row[key] for row in self] if isinstance(key, str) else super().__getitem__(key)


def evaluate(k_test: int, batch_size: int = 5, **options: Any) -> tuple[RetrievalResult, dict[str, torch.Tensor]]:
    case, checkpoint = load_case("retrieval_evaluation")
    student, _, _ = build(checkpoint)
    truth = INDEX["retrieval_evaluation"]["image_to_texts"]
    rows = Gallery({"image": int(i), "caption": [str(t) for t in texts]} for i, texts in truth.items())
    student.train()
    evaluator = RetrievalEvaluator(student, RecordedProcessor(case), k_test=k_test, batch_size=batch_size, **options)
    result = evaluator(rows)
    assert student.training  # put back
    return result, case


def test_recorded_scores_and_metrics() -> None:
    case, _ = load_case("retrieval_evaluation")
    result, _ = evaluate(k_test=int(case["k_test"]))
    assert result.metrics == pytest.approx(INDEX["retrieval_evaluation"]["metrics"], abs=1e-9)
    for ranked, recorded in (
        (result.image_to_text, case["scores_image_to_text"]),
        (result.text_to_image, case["scores_text_to_image"]),
    ):
        dense = torch.full_like(recorded, -100.0).scatter(1, ranked.ids, ranked.scores)
        torch.testing.assert_close(dense, recorded, atol=1e-5, rtol=0)  # also: the same pairs were left out
        assert (ranked.scores.diff(dim=1) <= 0).all()


def test_k_test_beyond_the_gallery_is_clipped() -> None:
    result, _ = evaluate(k_test=1000)
    assert result.image_to_text.ids.shape == (12, 24)
    assert result.text_to_image.ids.shape == (24, 12)
    assert result.metrics["img_r10"] <= 100


def test_scores_do_not_depend_on_batches() -> None:
    (one, _), (other, _) = evaluate(10, batch_size=1), evaluate(10, batch_size=12)
    assert torch.equal(one.image_to_text.ids, other.image_to_text.ids)
    torch.testing.assert_close(one.image_to_text.scores, other.image_to_text.scores, atol=1e-6, rtol=0)


def test_states_that_were_not_kept_are_computed_again_to_the_bit() -> None:
    (kept, _), (again, _) = evaluate(10), evaluate(10, image_memory=0)
    assert torch.equal(kept.image_to_text.scores, again.image_to_text.scores)
    assert torch.equal(kept.text_to_image.scores, again.text_to_image.scores)


def test_states_are_kept_as_far_as_the_budget_goes() -> None:
    case, checkpoint = load_case("retrieval_evaluation")
    model = build(checkpoint)[0]
    rows = Gallery({"image": image, "caption": ["0"]} for image in range(12))
    one_image = 5 * 24 * 4  # tokens x width x bytes
    for budget, batches in ((0, 0), (one_image * 5, 2), (one_image * 12, 6)):
        evaluator = RetrievalEvaluator(model, RecordedProcessor(case), batch_size=2, image_memory=budget / 1e6)
        with evaluator.inference():
            assert len(evaluator.encode_images(rows).states) == batches


def test_work_is_assigned_out_evenly() -> None:
    assert balance_load([4, 4, 4, 4], [0, 1, 0, 1], 2) == [0, 1, 0, 1]  # all stay with their owners
    assert balance_load([9, 1, 1, 1], [0, 0, 0, 0], 2) == [0, 1, 1, 1]  # more than a fair share: to whom has least
    loads = [7, 3, 9, 1, 5, 5, 2, 8]
    assigned = balance_load(loads, [batch % 3 for batch in range(8)], 3)
    sums = [sum(load for load, process in zip(loads, assigned, strict=True) if process == p) for p in range(3)]
    assert sum(sums) == 40 and max(sums) - min(sums) <= 4


def test_a_pair_is_scored_once_whoever_asks() -> None:
    texts_of_image, images_of_text = torch.tensor([[0, 2], [1, 0]]), torch.tensor([[1], [1], [0]])
    pairs = pairs_to_score(texts_of_image, images_of_text)
    assert pairs.tolist() == [[0, 0], [0, 2], [1, 0], [1, 1]]
    by_image, by_text = rank_candidates(pairs, torch.tensor([0.1, 0.5, 0.3, 0.3]), texts_of_image, images_of_text)
    assert by_image.ids.tolist() == [[2, 0], [1, 0]]  # equal scores keep the order of similarity
    torch.testing.assert_close(by_image.scores, torch.tensor([[0.5, 0.1], [0.3, 0.3]]))
    assert by_text.ids.tolist() == [[1], [1], [0]]
    torch.testing.assert_close(by_text.scores, torch.tensor([[0.3], [0.3], [0.5]]))


def test_questions_go_image_by_image() -> None:
    batches = group_questions([5, 7, 5, 5, 9, 7, 8], batch_size=4)
    assert batches == [[0, 2, 3], [1, 5, 4, 6]]
    assert group_questions([1] * 5, batch_size=2) == [[0, 1, 2, 3, 4]]  # one image is never parted


def test_predictions_name_the_right_candidates() -> None:
    result, _ = evaluate(k_test=10)
    names = [f"image {i}" for i in range(12)]
    predictions = result.top_predictions(names, depth=3)
    assert [query["image"] for query in predictions["image_to_text"]] == names
    assert [query["caption"] for query in predictions["text_to_image"]] == [str(i) for i in range(24)]
    hits = [query["texts"][0]["correct"] for query in predictions["image_to_text"]]
    assert 100 * sum(hits) / 12 == pytest.approx(result.metrics["txt_r1"])
    for query in predictions["image_to_text"]:
        assert all((int(t["caption"]) // 2 == names.index(query["image"])) == t["correct"] for t in query["texts"])


def test_selection_in_blocks_equals_a_full_sort() -> None:
    queries, gallery = torch.randn(7, 4), torch.randn(9, 4)
    full = (queries @ gallery.T).argsort(dim=1, descending=True)[:, :5]
    assert torch.equal(select_candidates(queries, gallery, 5, block_size=3), full)


def test_recalls_in_closed_form() -> None:
    matches = torch.zeros(4, 12, dtype=torch.bool)
    matches[0, 0] = matches[1, 4] = matches[1, 9] = matches[2, 11] = True  # ranks 0, 4, 11, none
    ranks = rank_of_first_match(matches)
    metrics = retrieval_metrics(ranks, torch.tensor([0, 0]))
    assert [metrics[f"txt_r{k}"] for k in (1, 5, 10)] == [25.0, 50.0, 50.0]
    assert metrics["txt_r_mean"] == pytest.approx(125 / 3)
    assert metrics["r_mean"] == pytest.approx((125 / 3 + 100) / 2)
    assert list(metrics) == "txt_r1 txt_r5 txt_r10 txt_r_mean img_r1 img_r5 img_r10 img_r_mean r_mean".split()


def test_bfloat16_weights_come_back_to_the_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a processor that would emulate it the arithmetic is float32; the weights are as they were afterwards."""
    monkeypatch.setattr("modeling_albef.training.evaluation.base.has_bfloat16_instructions", lambda: False)
    model = AlbefForImageTextRetrieval(tiny_config()).bfloat16()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    evaluator = RetrievalEvaluator(model, None)
    with evaluator.inference():
        assert model.dtype == torch.float32
        assert all(torch.equal(value, before[name].float()) for name, value in model.state_dict().items())
    after = model.state_dict()
    assert all(value.dtype == after[name].dtype and torch.equal(value, after[name]) for name, value in before.items())


@pytest.mark.parametrize(("tower", "name"), [("vision_proj", "image 0"), ("text_proj", "caption 0")])
def test_scores_that_are_no_numbers_are_not_ranked(tower: str, name: str) -> None:
    case, checkpoint = load_case("retrieval_evaluation")
    student, _, _ = build(checkpoint)
    torch.nn.init.constant_(getattr(student.albef, tower).bias, float("nan"))
    rows = Gallery({"image": image, "caption": [str(image)]} for image in range(3))
    with pytest.raises(AlbefError, match=rf"The features of {name} are not finite: .*\. Of 3 rows, 3 are not finite"):
        RetrievalEvaluator(student, RecordedProcessor(case), k_test=2)(rows)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_readers_are_started_by_any_method(method: str) -> None:
    """What goes to the readers holds no model."""
    model = build(load_case("retrieval_evaluation")[1])[0]
    model.hook = lambda: None  # what cannot be pickled
    rows = Gallery({"image": {"bytes": png(), "path": None}, "caption": ["a"]} for _ in range(2))
    readers = {"num_workers": 1, "loading": {"multiprocessing_context": method}}
    found = []
    for options in ({}, readers):
        evaluator = RetrievalEvaluator(model, processor(), **options)
        with evaluator.inference():
            found.append(evaluator.encode_images(rows).embeds)
    assert found[0].shape[0] == 2 and torch.equal(*found)


def png() -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (8, 8)).save(stream, "png")
    return stream.getvalue()


def processor() -> AlbefProcessor:
    return AlbefProcessor(AlbefImageProcessor(size={"height": 32, "width": 32}), build_tokenizer(["a"]))


def test_a_quantized_model_is_evaluated() -> None:
    """Its state dict has more than tensors; its ranks are close to those of the model."""
    case, checkpoint = load_case("retrieval_evaluation")
    student, _, _ = build(checkpoint)
    rows = Gallery({"image": image, "caption": [str(2 * image), str(2 * image + 1)]} for image in range(12))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch points to another package
        quantized = torch.ao.quantization.quantize_dynamic(student.eval(), {torch.nn.Linear}, dtype=torch.qint8)
    assert not all(isinstance(value, torch.Tensor) for value in quantized.state_dict().values())
    models = (student, quantized)
    exact, rough = (RetrievalEvaluator(model, RecordedProcessor(case), k_test=24)(rows) for model in models)
    scores = [torch.zeros(12, 24).scatter(1, one.image_to_text.ids, one.image_to_text.scores) for one in (exact, rough)]
    assert not torch.equal(*scores)
    assert torch.corrcoef(torch.stack([part.flatten() for part in scores]))[0, 1] > 0.9
