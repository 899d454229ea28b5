"""Pipelines against the models' own methods, as the README shows them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from run_cases import readme_block
from small_models import ANSWERS, save_retrieval, save_vqa
from transformers import pipeline
from transformers.utils import logging

from modeling_albef import AlbefForImageTextRetrieval, AlbefForQuestionAnswering
from modeling_albef.training.evaluation.vqa import VQAEvaluator
from processing import AlbefProcessor

QUESTION = "what color is the circle?"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with both models, images, and an image beside them."""
    folder = tmp_path_factory.mktemp("pipelines")
    save_retrieval(folder / "output/demo_retrieval")
    save_vqa(folder / "output/demo_vqa")
    (folder / "photos/more").mkdir(parents=True)
    for number in range(7):
        color = (40 * number, 250 - 30 * number, 20 * number % 90)
        path = folder / "photos" / ("more" if number % 2 else "") / f"{number}.png"
        Image.effect_mandelbrot((40, 30), (-2 + number / 4, -1, 1, 1), 20 + number).convert("RGB").save(path)
        Image.blend(Image.open(path), Image.new("RGB", (40, 30), color), 0.6).save(path)
    (folder / "photos/notes.txt").write_text("no image")
    Image.open(folder / "photos/2.png").save(folder / "photo.jpg")
    return folder


def run_block(mark: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.chdir(place)
    names: dict[str, Any] = {"pipeline": pipeline}
    exec(readme_block(mark), names)
    return names


def test_answers(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = run_block('pipeline("albef-vqa"', place, monkeypatch)
    model = AlbefForQuestionAnswering.from_pretrained("output/demo_vqa")
    processor = AlbefProcessor.from_pretrained("output/demo_vqa")
    inputs = processor(images="photo.jpg", text=QUESTION, return_tensors="pt")
    ranked = model.rank_answers(**inputs, candidates=processor.encode_answers(ANSWERS))
    assert [one["answer"] for one in names["ranked"]] == [ANSWERS[place] for place in ranked.ids[0, :3].tolist()]
    scores = torch.tensor([one["score"] for one in names["ranked"]])
    torch.testing.assert_close(scores, ranked.probabilities[0, :3], atol=1e-5, rtol=0)
    assert {one["answer"] for one in names["chosen"]} == {"red", "blue"}
    assert sum(one["score"] for one in names["chosen"]) == pytest.approx(1, abs=1e-5)


def test_free_answers_have_their_probability(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = run_block('pipeline("albef-vqa"', place, monkeypatch)
    model = AlbefForQuestionAnswering.from_pretrained("output/demo_vqa")
    processor = AlbefProcessor.from_pretrained("output/demo_vqa")
    assert [len(answers) for answers in names["written"]] == [5, 5]
    short = names["answer"](image="photo.jpg", question=QUESTION, free_form=True, top_k=2, max_new_tokens=1)
    question, _ = model.encode_questions(**processor(images="photo.jpg", text=QUESTION, return_tensors="pt"))
    start = torch.tensor([[processor.tokenizer.cls_token_id]])
    first = model.text_decoder(start, encoder_hidden_states=question).logits[0, 0].softmax(-1).topk(2)
    assert [one["score"] for one in short] == pytest.approx(first.values.tolist(), rel=1e-4)
    alone = names["answer"](image="photo.jpg", question="what is left?", free_form=True)
    assert [one["answer"] for one in alone] == [one["answer"] for one in names["written"][1]]  # batched or not


def test_free_answers_begin_with_a_whole_word(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a model that would end at once, write special tokens, or begin in the middle of a word."""
    monkeypatch.chdir(place)
    model = AlbefForQuestionAnswering.from_pretrained("output/demo_vqa")
    processor = AlbefProcessor.from_pretrained("output/demo_vqa")
    tokenizer = processor.tokenizer
    pieces = [index for word, index in tokenizer.get_vocab().items() if word.startswith("##")]
    bias = torch.zeros(model.config.decoder_config.vocab_size)
    bias[pieces] = 30.0
    bias[tokenizer.all_special_ids] = 60.0
    model.text_decoder.head.decoder.bias.data = bias
    answer = pipeline("albef-vqa", model=model, processor=processor)
    plain = model.generate(**processor(images="photo.jpg", text=QUESTION, return_tensors="pt"), max_new_tokens=3)
    assert not processor.batch_decode(plain, skip_special_tokens=True)[0]  # what happened without
    written = [one["answer"] for one in answer(image="photo.jpg", question=QUESTION, free_form=True, top_k=3)]
    evaluator = VQAEvaluator(model, processor, answer_list=ANSWERS, inference_method="generate")
    written += evaluator.generate([{"image": Image.open("photo.jpg"), "question": QUESTION, "question_id": 0}])[0]
    assert len(written) == 4
    for text in written:
        first = tokenizer(text)["input_ids"][1]
        assert text.strip() and not text.startswith("##") and first not in {*pieces, *tokenizer.all_special_ids}


def test_pipelines_of_the_library(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = run_block('pipeline("image-text-to-text"', place, monkeypatch)
    vqa = AlbefForQuestionAnswering.from_pretrained("output/demo_vqa")
    processor = AlbefProcessor.from_pretrained("output/demo_vqa")
    tokens = vqa.generate(**processor(images="photo.jpg", text=QUESTION, return_tensors="pt"), max_new_tokens=5)
    written = processor.batch_decode(tokens, skip_special_tokens=True)[0]
    assert names["text"][0]["generated_text"] == written
    model = AlbefForImageTextRetrieval.from_pretrained("output/demo_retrieval")
    processor = AlbefProcessor.from_pretrained("output/demo_retrieval")
    texts = ["a red circle", "a blue circle"]
    outputs = model(**processor(images="photo.jpg", text=texts, padding=True, return_tensors="pt"))
    expected = dict(zip(("red", "blue"), outputs.logits_per_image[0].softmax(-1).tolist(), strict=True))
    assert {one["label"]: one["score"] for one in names["labels"]} == pytest.approx(expected, abs=1e-5)
    torch.testing.assert_close(torch.tensor(names["image_embeds"]), outputs.image_embeds, atol=1e-5, rtol=0)
    torch.testing.assert_close(torch.tensor(names["text_embeds"]), outputs.text_embeds[:1], atol=1e-5, rtol=0)


def test_search(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = run_block("search.save_index(", place, monkeypatch)
    model = AlbefForImageTextRetrieval.from_pretrained("output/demo_retrieval")
    processor = AlbefProcessor.from_pretrained("output/demo_retrieval")
    paths = sorted(str(path.relative_to(place)) for path in (place / "photos").rglob("*.png"))
    query = "a red circle left of a square"
    outputs = model(**processor(images=paths, text=query, return_tensors="pt"))
    order = outputs.itm_logits[:, 0, 1].argsort(descending=True)[:5].tolist()
    assert [one["image"] for one in names["found"]] == [paths[number] for number in order]
    for one, number in zip(names["found"], order, strict=True):
        assert one["score"] == pytest.approx(float(outputs.itm_logits[number, 0, 1].detach()), abs=1e-4)
        assert one["probability"] == pytest.approx(float(outputs.itm_logits[number, 0].softmax(-1)[1]), abs=1e-4)
        cosine = float(outputs.logits_per_image[number, 0] * model.albef.temperature)
        assert one["similarity"] == pytest.approx(cosine, abs=1e-4)
    texts = ["a red circle", "a blue square", "a green star"]
    outputs = model(**processor(images="photo.jpg", text=texts, padding=True, return_tensors="pt"))
    order = outputs.itm_logits[0, :, 1].argsort(descending=True)[:2].tolist()
    assert [one["text"] for one in names["captions"]] == [texts[number] for number in order]
    search = names["search"]
    with pytest.raises(ValueError, match="index images with index_images"):
        search("a red circle")
    search.load_index("photos_index")
    quick = search(query, k=0, top_k=3)
    assert set(quick[0]) == {"image", "similarity"}
    both = search([query, "a green star"], k=2, top_k=2)
    assert sorted(one["image"] for one in both[0]) == sorted(one["image"] for one in quick[:2])  # first stage: k = 2
    search.load_index("photos_index", faiss="Flat")
    assert [one["image"] for one in search(query, k=0, top_k=3)] == [one["image"] for one in quick]


def test_a_search_that_finds_nothing(place: Path) -> None:
    search = pipeline("image-text-retrieval", model=str(place / "output/demo_retrieval"))
    search.index_images(place / "photos")
    query = "a red circle"
    everything, quick = search(query, top_k=7), search(query, top_k=7, k=0)
    for column, found, more in (("probability", everything, {}), ("similarity", quick, {"k": 0})):
        middle = sorted(one[column] for one in found)[3]
        expected = [one for one in found if one[column] >= middle]
        assert search(query, top_k=7, threshold=middle - 1e-6, **more) == expected and len(expected) == 4
        assert search(query, top_k=7, threshold=-1, **more) == found and search(query, threshold=1.1, **more) == []
    assert search([query, query], threshold=2) == [[], []]
    with pytest.raises(ValueError, match="not calibrated: give a number, or evaluate it with --calibrate"):
        search(query, threshold="calibrated")
    for wrong in ("high", True):
        with pytest.raises(ValueError, match='but must be a number or "calibrated"'):
            search(query, threshold=wrong)

    second, near = everything[1]["score"], quick[2]["similarity"]
    search.model.config.search_calibration = {
        **{"temperature": 0.5, "threshold": second - 0.1},
        **{"cosine_temperature": 0.02, "cosine_threshold": near - 0.001},
    }
    found = search(query, top_k=7, threshold="calibrated")
    assert [one["image"] for one in found] == [one["image"] for one in everything if one["score"] >= second - 0.1]
    assert found[1]["confidence"] == pytest.approx(1 / (1 + math.exp(-0.2)), abs=1e-4)
    found = search(query, top_k=7, k=0, threshold="calibrated")
    assert len(found) == 3 and found[2]["confidence"] == pytest.approx(1 / (1 + math.exp(-0.05)), abs=1e-4)
    search.model.config.search_calibration["threshold"] = everything[0]["score"] + 1
    assert search(query, threshold="calibrated") == []


def test_answers_say_what_is_wrong(place: Path) -> None:
    answer = pipeline("albef-vqa", model=str(place / "output/demo_vqa"))
    photo = str(place / "photo.jpg")
    for question in ("", "?!", "\N{BEAR FACE}"):
        with pytest.raises(ValueError, match="has no word that the model knows"):
            answer(image=photo, question=question)
    with pytest.raises(ValueError, match="There is no question"):
        answer(photo)
    with pytest.raises(ValueError, match="2 images do not go with 3 questions"):
        answer(image=[photo] * 2, question=[QUESTION] * 3)
    for answers in (["red", "red"], ["red", "red "], ["red", " "]):
        with pytest.raises(ValueError, match="has an empty answer, or one twice"):
            answer(image=photo, question=QUESTION, answer_list=answers)
    with pytest.raises(ValueError, match="answer_list is 'red', but must be a list, or a JSON file of one"):
        answer(image=photo, question=QUESTION, answer_list="red")
    with pytest.raises(ValueError, match="no answers to encode"):
        answer.processor.encode_answers([])
    with pytest.raises(ValueError, match=r'pixel_values is a list, but .* return_tensors="pt"'):
        answer.model(**answer.processor(images=photo, text=QUESTION))


def test_candidates_that_the_tokenizer_cannot_tell_apart_are_one(place: Path, caplog: pytest.LogCaptureFixture) -> None:
    """They would share the probability; the first of the list is kept."""
    answer = pipeline("albef-vqa", model=str(place / "output/demo_vqa"))
    photo = str(place / "photo.jpg")
    expected = answer(image=photo, question=QUESTION, answer_list=["Red", "blue"])
    logging.enable_propagation()
    found = answer(image=photo, question=QUESTION, answer_list=["Red", "blue", "red", "RED"])
    logging.disable_propagation()
    assert found == expected and {one["answer"] for one in found} == {"Red", "blue"}
    assert "one spelling is kept: 'red' is 'Red', 'RED' is 'Red'." in caplog.text
    assert answer(image=photo, question=QUESTION, answer_list=["blue", "red", "Red"], top_k=5)[0]["answer"] != "Red"


def test_a_model_of_another_task_is_refused_until_it_is_trained(place: Path) -> None:
    answer = pipeline("albef-vqa", model=str(place / "output/demo_retrieval"))
    with pytest.raises(ValueError, match="output/demo_retrieval' has no answer decoder: give one that was trained"):
        answer(image=str(place / "photo.jpg"), question=QUESTION, answer_list=["red", "blue"])
    answer.model.train()
    answer.model.eval()
    assert answer(image=str(place / "photo.jpg"), question=QUESTION, answer_list=["red", "blue"])
    search = pipeline("image-text-retrieval", model=str(place / "output/demo_vqa"))
    search.index_texts("a circle")
    with pytest.raises(ValueError, match="output/demo_vqa' has no matching head"):
        search(image=str(place / "photo.jpg"))


def test_search_says_what_is_wrong(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    search = pipeline("image-text-retrieval", model=str(place / "output/demo_retrieval"))
    for factory in ("IVF256,Flat", "abc"):
        with pytest.raises(ValueError, match=f"FAISS makes no index '{factory}' of 2 entries .* 'IVF256,Flat' needs"):
            search.index_texts(["a circle", "a square"], faiss=factory)
    search.index_texts("a circle")
    assert search.index.names == ["a circle"]
    search.index_images([Image.new("RGB", (40, 30))])
    with pytest.raises(ValueError, match="The text '!' has no word"):
        search("!")
    search.index = None
    monkeypatch.setattr("datasets.search._has_faiss", False)  # as where FAISS is not installed
    with pytest.raises(ImportError, match="A FAISS index needs `pip install datasets faiss-cpu`"):
        search.index_texts(["a circle"], faiss="Flat")
    with pytest.raises(ValueError, match="Nothing is indexed"):
        search("a circle")
    for folder, message in ((tmp_path / "nothing", "There is no folder"), (tmp_path, "has no images")):
        with pytest.raises(FileNotFoundError, match=message):
            search.index_images(folder)
    with pytest.raises(FileNotFoundError, match="holds no index"):
        search.load_index(tmp_path)
    search.index_images([Image.new("RGB", (40, 30))])
    with pytest.raises(TypeError, match="index files to save"):
        search.save_index(tmp_path)
    search.index.names = ["a.png"]
    search.index.embeds = search.index.embeds[:, :3]
    search.save_index(tmp_path)
    with pytest.raises(ValueError, match="index again"):
        search.load_index(tmp_path)
