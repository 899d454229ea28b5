"""Heat maps on a sheet, and the command that draws them."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from run_cases import refused
from small_models import ANSWERS, save_retrieval, save_vqa
from transformers import pipeline

from modeling_albef import AlbefForImageTextRetrieval, AlbefForQuestionAnswering, AlbefModel
from modeling_albef.explain.gradcam import gradcam
from modeling_albef.explain.heat_maps import HeatMaps, draw_heat_maps, explain_answer, explain_match
from modeling_albef.explain.visualize import main
from processing import AlbefProcessor

QUESTION = "What color is the circle?"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("visualize")
    save_retrieval(folder / "retrieval")
    save_vqa(folder / "vqa")
    Image.effect_mandelbrot((60, 40), (-2, -1, 1, 1), 30).convert("RGB").save(folder / "photo.png")
    (folder / "notes.png").write_text("no image")
    (folder / "bert").mkdir()
    (folder / "bert/config.json").write_text('{"model_type": "bert"}')
    return folder


def test_words_are_joined_and_have_the_mean_of_their_pieces(place: Path) -> None:
    model = AlbefForImageTextRetrieval.from_pretrained(place / "retrieval")
    processor = AlbefProcessor.from_pretrained(place / "retrieval")
    heat = explain_match(model, processor, place / "photo.png", "A blue, bluer circle!")
    assert heat.words == ["a", "blue", "bluer", "circle"] and heat.answer is None
    inputs = processor(images=place / "photo.png", text="a blue bluer circle", return_tensors="pt")
    tokens = processor.tokenizer.convert_ids_to_tokens(inputs["input_ids"][0].tolist())
    assert tokens == ["[CLS]", "a", "blue", "blue", "##r", "circle"]
    maps = gradcam(model, **inputs)[0]
    torch.testing.assert_close(heat.maps, torch.stack([maps[1], maps[2], (maps[3] + maps[4]) / 2, maps[5]]))
    probability = model(**inputs).itm_logits.softmax(-1)[0, 0, 1].item()
    assert heat.probability == pytest.approx(probability, abs=1e-6)
    assert heat.title() == f"match, probability {probability:.2f}"


def test_a_question_is_explained_by_its_best_answer_or_the_given_one(place: Path) -> None:
    model = AlbefForQuestionAnswering.from_pretrained(place / "vqa")
    processor = AlbefProcessor.from_pretrained(place / "vqa")
    best = pipeline("albef-vqa", model=model, processor=processor)(image=str(place / "photo.png"), question=QUESTION)
    heat = explain_answer(model, processor, place / "photo.png", QUESTION)
    assert heat.answer == best[0]["answer"] and heat.words == ["what", "color", "is", "the", "circle"]
    given = next(answer for answer in ANSWERS if answer != heat.answer)
    other = explain_answer(model, processor, place / "photo.png", QUESTION, given)
    assert other.answer == given and not torch.allclose(other.maps, heat.maps)
    inputs = processor(images=place / "photo.png", text=QUESTION, return_tensors="pt")
    question, _ = model.encode_questions(**inputs)
    ids = processor.encode_answers([given])["input_ids"]
    logits = model.text_decoder(ids, encoder_hidden_states=question).logits[0]
    expected = math.exp(torch.distributions.Categorical(logits=logits[:-1]).log_prob(ids[0, 1:]).sum().item())
    assert other.probability == pytest.approx(expected, rel=1e-4)


def test_heat_is_where_the_map_is_hot() -> None:
    maps = torch.zeros(6, 4, 4)
    maps[0, 3, 0] = 5.0  # bottom left
    image = Image.new("RGB", (448, 224), (90, 90, 90))
    words = ["hot", "cold", *"wxyz"]
    sheet = draw_heat_maps(image, HeatMaps(words, maps, 0.5))
    alone = draw_heat_maps(image, HeatMaps(["hot"], maps[:1], 0.5))
    assert alone.width < sheet.width and alone.height < sheet.height  # seven panels are two rows
    pixels = np.asarray(sheet).astype(int)
    panels = [pixels[40:152, left : left + 224] for left in (12, 248, 484)]  # image, hot, cold
    assert (panels[0] == 90).all() and (panels[2] == 90).all()
    red, green, blue = panels[1][95, 20]
    assert red > 100 and blue < 60 and green < red / 2
    assert (panels[1][:40, 120:] == 90).all()
    assert (pixels[152:180, 12:700] < 100).any()  # words are written beneath


def test_the_command_writes_a_sheet(
    place: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    main([str(place / "photo.png"), "a blue circle", "--model", str(place / "retrieval")])
    assert capsys.readouterr().out.startswith("match, probability 0.")
    with Image.open("photo_heat_maps.png") as sheet:
        assert sheet.format == "PNG" and sheet.width == 4 * 236 + 12  # the image and three words
    words = ["--question", QUESTION, "--model", str(place / "vqa")]
    main([str(place / "photo.png"), *words])
    assert capsys.readouterr().out.endswith(": photo_question_heat_maps.png\n")
    main([str(place / "photo.png"), *words, "--answer", "green", "--layer", "3", "--output", "out.png"])
    assert "answer: green, probability 0." in capsys.readouterr().out
    for name in ("photo_question_heat_maps.png", "out.png"):
        with Image.open(name) as sheet:
            assert sheet.width == 5 * 236 + 12


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["photo.png"], "either a caption or --question"),
        (["photo.png", "a circle", "--question", "what"], "either a caption or --question"),
        (["photo.png", "a circle", "--answer", "red"], "--answer belongs to a --question"),
        (["none.png", "a circle"], "none.png' does not exist"),
        (["notes.png", "a circle"], "notes.png' is no image"),
        (["photo.png", ""], "The caption '' has no words"),
        (["photo.png", " !? "], "has no words"),
        (["photo.png", "a " * 31], "more than the 30 words that the model reads"),
        (["photo.png", "a circle", "--layer", "1"], r"layer is 1, but must be a fusion layer, 2\.\.3"),
        (["photo.png", "a circle", "--layer", "3"], "choose an earlier fusion layer"),
        (["photo.png", "a circle", "--output", "out.jpg"], "must end in .png"),
        (["photo.png", "a circle", "--output", "no/out.png"], "no folder 'no'"),
        (["photo.png", "--question", ""], "The question '' has no words"),
        (["photo.png", "--question", "what", "--answer", " "], "The answer is empty"),
        (["photo.png", "a circle", "--model", "vqa"], "no matching head"),
        (["photo.png", "--question", "what", "--model", "retrieval"], "no answer decoder"),
        (["photo.png", "a circle", "--model", "./nowhere"], "There is no model at './nowhere'"),
        (["photo.png", "a circle", "--model", "bert"], "of the type 'bert'"),
    ],
)
def test_what_is_refused(place: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], message: str) -> None:
    monkeypatch.chdir(place)
    if "--model" not in words:
        words = [*words, "--model", "vqa" if "--question" in words else "retrieval"]
    error = refused(main, words)
    assert "\n" not in error
    assert re.search(message, error), error


def test_a_model_without_its_processor(place: Path, tmp_path: Path) -> None:
    AlbefForImageTextRetrieval.from_pretrained(place / "retrieval").save_pretrained(tmp_path / "bare")
    error = refused(main, [str(place / "photo.png"), "a circle", "--model", str(tmp_path / "bare")])
    assert error.startswith("There is no processor beside the model")
    AlbefModel.from_pretrained(place / "retrieval").save_pretrained(tmp_path / "towers")
    error = refused(main, [str(place / "photo.png"), "a circle", "--model", str(tmp_path / "towers")])
    assert "has no matching head" in error
    weights = tmp_path / "bare/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:3000])
    error = refused(main, [str(place / "photo.png"), "a circle", "--model", str(tmp_path / "bare")])
    assert error.startswith(f"The model in {tmp_path / 'bare'} cannot be used: ")
