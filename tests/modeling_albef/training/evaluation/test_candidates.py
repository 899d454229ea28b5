"""Candidates that a tokenizer cannot tell apart are one, and a result does not depend on how they are listed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from golden_cases import tiny_config
from PIL import Image
from transformers import BertTokenizer

from modeling_albef import AlbefError, AlbefForQuestionAnswering
from modeling_albef.answer_tree_albef import describe_merged_answers, merge_equal_answers
from modeling_albef.training import VQAEvaluator, VQATrainer, VQATrainingArguments, question_only_accuracy
from modeling_albef.training.application.answers import baseline_metrics
from modeling_albef.training.evaluation.candidates import check_answers, choose_folding, folding
from modeling_albef.training.evaluation.vqa_metrics import answer_accuracy
from processing import AlbefImageProcessor, AlbefProcessor, AugmentedDataset, VQACollator, build_tokenizer

WORDS = ["what is left? red cafe blue 8:30 t-shirt a b 1,000"]


@pytest.fixture(scope="module")
def processor() -> AlbefProcessor:
    return AlbefProcessor(AlbefImageProcessor(size=32), build_tokenizer(WORDS), text_type="question", max_words=50)


@pytest.fixture(scope="module")
def model(processor: AlbefProcessor) -> AlbefForQuestionAnswering:
    torch.manual_seed(0)
    model = AlbefForQuestionAnswering(tiny_config(vocab_size=len(processor.tokenizer))).eval()
    decoder_config, tokenizer = model.config.decoder_config, processor.tokenizer
    decoder_config.bos_token_id, decoder_config.eos_token_id = tokenizer.cls_token_id, tokenizer.sep_token_id
    return model


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Makes questions whose annotators give certain answers."""
    folder = tmp_path_factory.mktemp("images")
    Image.new("RGB", (32, 32), "red").save(folder / "0.png")

    def make(*answers: list[str], **columns: Any) -> datasets.Dataset:
        row = {"image": str(folder / "0.png"), "image_id": 0, "question": "what is left?"}
        made = [
            row | {"question_id": n, "answers": given, **{name: values[n] for name, values in columns.items()}}
            for n, given in enumerate(answers)
        ]
        return datasets.Dataset.from_list(made).cast_column("image", datasets.Image(decode=False))

    return make


def test_equal_tokens_are_one_candidate_in_the_order_of_the_list() -> None:
    names, tokens = ["b", "Red", "red", "a", "RED"], [[2], [1], [1], [3], [1]]
    assert merge_equal_answers(names, tokens) == {"b": [], "Red": ["red", "RED"], "a": []}
    counts = {"red": 5, "RED": 5, "Red": 1}
    assert merge_equal_answers(names, tokens, lambda: counts) == {"b": [], "red": ["Red", "RED"], "a": []}

    def never() -> dict[str, int]:
        raise AssertionError("nothing is to be merged")

    assert merge_equal_answers(["a", "b"], [[1], [1, 2]], never) == {"a": [], "b": []}


def test_what_was_merged_is_said_in_a_sentence() -> None:
    assert describe_merged_answers({"a": [], "b": []}) is None
    said = describe_merged_answers({"red": ["Red", "RED"], "a": [], "cafe": ["Café"]}, shown=2)
    assert said is not None and said.endswith("is kept: 'Red' is 'red', 'RED' is 'red' and 1 more.")


def test_the_most_frequent_spelling_is_kept(processor: AlbefProcessor) -> None:
    names, tokenizer = ["Red", "red", "Café", "cafe", "8:30", "8 : 30"], processor.tokenizer
    assert check_answers(names, tokenizer) == ["Red", "Café", "8:30"]
    given = [["red", "red", "Red"], ["cafe", "8 : 30", "Café", "cafe"]]
    assert check_answers(names, tokenizer, given) == check_answers(names[::-1], tokenizer, given)[::-1]
    assert check_answers(names, tokenizer, given) == ["red", "cafe", "8 : 30"]
    cased = BertTokenizer(
        vocab={name: i for i, name in enumerate([*tokenizer.all_special_tokens, "Red", "red"])}, do_lower_case=False
    )
    assert check_answers(["Red", "red"], cased) == ["Red", "red"]  # this one tells them apart


@pytest.mark.parametrize("names", [["red", "Red"], ["Red", "red"]])
@pytest.mark.parametrize("truth", ["red", "Red", "RED"])
def test_the_order_of_the_list_decides_nothing(
    processor: AlbefProcessor, model: Any, rows: Any, names: list[str], truth: str
) -> None:
    """Before, 0 or 100 by the order of the list."""
    result = VQAEvaluator(model, processor, names)(rows([truth], [truth] * 10))
    assert result.metrics["vqa_accuracy"] == 100
    assert result.details["fold_answers"] is True and result.scores.tolist() == [100, 100]
    unfolded = VQAEvaluator(model, processor, names, fold_answers=False)(rows([truth], [truth] * 10))
    assert unfolded.metrics["vqa_accuracy"] == (100 if truth == names[0] else 0)
    assert unfolded.details["fold_answers"] is False


def test_folding_is_what_the_tokenizer_cannot_tell_apart(processor: AlbefProcessor) -> None:
    fold, tokenizer = folding(processor.tokenizer), processor.tokenizer
    texts = [
        "red",
        "Red",
        " RED ",
        "cafe",
        "Café",
        "8:30",
        "8 : 30",
        "t-shirt",
        "T - Shirt",
        "t shirt",
        "1,000",
        "1000",
    ]
    texts += ["1000", "a b", "a  b", "ab", "it's", "it ' s", "its", "a,b", "a, b", "$5", "$ 5", "中文", "中 文", "a。b"]
    tokens = [tuple(tokenizer.tokenize(text)) for text in texts]
    for one, ids in zip(texts, tokens, strict=True):
        for other, other_ids in zip(texts, tokens, strict=True):
            if tokenizer.unk_token not in ids:
                assert (fold(one) == fold(other)) == (ids == other_ids), (one, other)
        assert fold(fold(one)) == fold(one)
    assert fold("1,000") == "1,000" and fold("it ' s") == "it's"  # a form that the official rules read as before
    assert fold("中文") != fold("文中")  # though neither has a token


def test_folded_answers_go_through_the_rules(processor: AlbefProcessor) -> None:
    fold = folding(processor.tokenizer)
    assert answer_accuracy("red", ["Red"] * 10) == 0 and answer_accuracy("red", ["Red"] * 10, fold=fold) == 100
    assert answer_accuracy("cafe", ["Café"] * 9 + ["bar"]) == 0
    assert answer_accuracy("cafe", ["Café"] * 9 + ["bar"], fold=fold) == 100
    assert answer_accuracy("the cafe", ["Café"] * 9 + ["bar"], fold=fold) == 100  # an article
    assert answer_accuracy("1000", ["1,000"] * 9 + ["100"], fold=fold) == 100
    assert answer_accuracy("red", ["Red"] * 9 + ["blue"], "albef") == 0
    assert answer_accuracy("red", ["Red"] * 9 + ["blue"], "albef", fold) == 100


def test_the_guesser_counts_folded_answers_together(processor: AlbefProcessor) -> None:
    train = {"question": ["what?"] * 3, "answers": [["Red", "blue", "blue"], ["red"], ["RED"]]}
    test = {"question": ["what?"], "question_id": [1], "answers": [["red"] * 10]}
    assert question_only_accuracy(train, test) == 0  # blue
    assert question_only_accuracy(train, test, fold=folding(processor.tokenizer)) == 100


def test_baselines_of_a_run_count_folded_answers_together(processor: AlbefProcessor, rows: Any, tmp_path: Path) -> None:
    """Unfolded, blue is the most frequent answer."""
    splits = {"train": rows(["Red", "red"], ["RED"], ["blue", "blue"]), "test": rows(["red"], ["Red"])}
    for wanted, accuracy in ((None, 100), (True, 100), (False, 0)):
        args = VQATrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to=[], fold_answers=wanted)
        found = baseline_metrics(splits, "test", args, processor.tokenizer)
        assert found["majority_accuracy"] == found["question_only_accuracy"] == accuracy
        alone = baseline_metrics({"test": splits["test"]}, "test", args, processor.tokenizer)
        assert alone["question_only_accuracy"] == accuracy  # each guessed from the other


def test_answers_of_vqa_v2_are_not_folded(processor: AlbefProcessor, rows: Any) -> None:
    own = rows(["red"])
    published = own.map(lambda row: row)
    published.info.builder_name = "vqa_v2"
    tokenizer = processor.tokenizer
    assert choose_folding(None, own, tokenizer) is not None and choose_folding(None, published, tokenizer) is None
    assert choose_folding(True, published, tokenizer) is not None and choose_folding(False, own, tokenizer) is None


def test_annotated_types_are_used(processor: AlbefProcessor, model: Any, rows: Any) -> None:
    """An unknown type does not stop the run."""
    data = rows(
        ["red"], ["red"], ["red"], answer_type=["other", "unanswerable", "number"], question_type=["a", "b", "a"]
    )
    result = VQAEvaluator(model, processor, ["red"], vqa_rules="albef")(data)
    names = ("", "_number", "_other", "_unanswerable")
    assert result.metrics == {f"vqa_accuracy{name}": 100.0 for name in names}
    assert result.by_question_type == {"a": 100.0, "b": 100.0}
    assert result.details["vqa_rules"] == "albef"


def test_a_type_that_some_rows_lack_is_derived(processor: AlbefProcessor, model: Any, rows: Any) -> None:
    data = rows(["red"], ["red"], answer_type=["unanswerable", None], question_type=["a", None])
    result = VQAEvaluator(model, processor, ["red"])(data)
    assert set(result.metrics) == {"vqa_accuracy", "vqa_accuracy_other", "vqa_accuracy_unanswerable"}
    assert result.by_question_type == {}


def test_the_interval_draws_images_with_their_questions(processor: AlbefProcessor, model: Any, rows: Any) -> None:
    given = [["red"] if number < 40 else ["blue"] for number in range(100)]
    result = VQAEvaluator(model, processor, ["red"])(rows(*given, image_id=list(range(100))))
    low, high = result.details["vqa_accuracy_interval"]
    assert result.metrics["vqa_accuracy"] == 40 and (low, high) == pytest.approx((30.4, 49.6), abs=1.5)  # 40 +- 9.6
    one_image = VQAEvaluator(model, processor, ["red"])(rows(*given))
    assert one_image.details["vqa_accuracy_interval"] == pytest.approx([40, 40])


def test_the_rules_of_a_run_decide(processor: AlbefProcessor, model: Any, rows: Any) -> None:
    data = rows(["1,000"] * 10)
    for rules, accuracy in (("vqa", 100), ("albef", 0)):
        result = VQAEvaluator(model, processor, ["1,000"], vqa_rules=rules)(data)
        assert result.metrics["vqa_accuracy"] == accuracy
    arguments = VQATrainingArguments(output_dir="out", vqa_rules="albef", use_cpu=True)
    assert arguments.recipe()["vqa_rules"] == "albef"  # what a model card lists
    with pytest.raises(ValueError, match="are 'old', but must be 'vqa' or 'albef'"):
        VQAEvaluator(model, processor, ["red"], vqa_rules="old")
    with pytest.raises(ValueError, match="vqa_rules is 'old', but must be vqa or albef"):
        VQATrainingArguments(output_dir="out", vqa_rules="old", use_cpu=True)


@pytest.mark.parametrize("is_wrapped", [False, True])
def test_a_trainer_keeps_the_spelling_of_its_training_data(
    processor: AlbefProcessor, model: Any, rows: Any, tmp_path: Path, is_wrapped: bool
) -> None:
    data = rows(["red", "Red", "red"], ["Café", "red"], ["Red"])
    args = VQATrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to=[], per_device_train_batch_size=1)
    trainer = VQATrainer(
        model,
        args,
        answer_list=["Café", "Red", "cafe", "red", "blue"],
        train_dataset=AugmentedDataset(data) if is_wrapped else data,
        eval_dataset=data,
        data_collator=VQACollator(processor),
        processing_class=processor,
    )
    assert trainer.answer_list == ["Café", "red", "blue"] == trainer.model.config.decoder_config.answer_list


@pytest.mark.parametrize("beams", [1, 3])
def test_free_answers_are_those_of_generate(
    beams: int, model: AlbefForQuestionAnswering, processor: AlbefProcessor, rows: Any
) -> None:
    """The oracle is the library's generation, a question at a time; an answer begins with a whole word."""
    data = rows(["a"], ["red"], ["a"], question=["what is left?", "what is red?", "red"], image_id=[0, 1, 1])
    options = {"num_beams": beams, "max_new_tokens": 4, "length_penalty": 0.0, "return_dict_in_generate": True}
    options |= processor.answer_constraints()
    texts, scores = [], []
    for row in data:
        image = Image.open(row["image"]["path"])
        question = {"text": row["question"], "text_type": "question", "max_words": 50, "return_tensors": "pt"}
        outputs = model.generate(**processor(images=image, **question), **options, output_scores=beams > 1)
        texts.append(processor.batch_decode(outputs.sequences, skip_special_tokens=True)[0])
        scores += outputs.sequences_scores.exp().tolist() if beams > 1 else []
    assert any(texts) and not set(texts) <= {"a", "red"}  # not of the candidates
    written = {"inference_method": "generate", "generation_num_beams": beams, "generation_max_length": 4}
    result = VQAEvaluator(model, processor, ["a", "red"], batch_size=2, **written)(data)
    assert [row["answer"] for row in result.answers] == texts and result.details["inference"] == "generate"
    assert (result.probabilities is None) is (beams == 1)
    if beams > 1:
        assert result.probabilities.tolist() == pytest.approx(scores, rel=1e-4)


def test_a_written_answer_is_scored_and_spelled_like_a_candidate(
    model: AlbefForQuestionAnswering, processor: AlbefProcessor, rows: Any
) -> None:
    """The tokens of `t-shirt` are decoded as `t - shirt`; a written answer counts by the rules of all answers."""
    evaluator = VQAEvaluator(model, processor, ["red", "T-shirt"], inference_method="generate")
    shirt, dot = processor.tokenizer("t-shirt")["input_ids"], processor.tokenizer("b a")["input_ids"]
    assert evaluator._texts([[*shirt, -1, -1], [*dot, -1], [-1, -1]]) == ["T-shirt", "b a", ""]
    written = evaluator.generate(rows(["a"]))[0][0]
    scores = [evaluator(rows([given] * 10)).metrics["vqa_accuracy"] for given in (written.upper(), "cafe")]
    assert written and scores == [100.0, 0.0]
    with pytest.raises(AlbefError, match="inference_method is 'guess', but must be rank or generate"):
        VQAEvaluator(model, processor, ["red"], inference_method="guess")


def test_a_question_has_candidates_of_its_own(
    model: AlbefForQuestionAnswering, processor: AlbefProcessor, rows: Any
) -> None:
    """The oracle ranks a question at a time; neighbors with other candidates change nothing."""
    shared = ["a", "b", "red", "blue", "cafe"]
    own = [["red", "blue"], [], ["t-shirt", "1,000", "8:30"], ["red", "blue"], None, ["cafe"]]
    data = rows(
        *[["red"]] * 6,
        candidates=own,
        image_id=[0, 0, 1, 1, 0, 2],
        question=["what is left?", "a", "b", "red", "?", "a"],
    )
    expected, scores = [], []
    for row in data:
        names = row["candidates"] or shared
        question = {"text": row["question"], "text_type": "question", "max_words": 50, "return_tensors": "pt"}
        inputs = processor(images=Image.open(row["image"]["path"]), **question)
        ranked = model.rank_answers(**inputs, candidates=processor.encode_answers(names), k=128)
        expected.append(names[int(ranked.ids[0, 0])])
        scores.append(float(ranked.probabilities[0, 0]))
    result = VQAEvaluator(model, processor, shared, batch_size=4)(data)
    assert [row["answer"] for row in result.answers] == expected and expected[2] in own[2] and expected[5] == "cafe"
    assert result.probabilities.tolist() == pytest.approx(scores, rel=1e-4)
    plain = VQAEvaluator(model, processor, shared, batch_size=4)(data.remove_columns("candidates"))
    assert {row["answer"] for row in plain.answers} <= set(shared)
    with pytest.raises(AlbefError, match=r"candidates of row 1 cannot be ranked. The answer list has 'b' twice"):
        VQAEvaluator(model, processor, shared)(rows(["a"], ["a"], candidates=[["a"], ["b", "b"]]))
