"""The official accuracy: each rule on answers worked out by hand, closed forms, and the files it reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from modeling_albef.training.evaluation.vqa import question_only_accuracy
from modeling_albef.training.evaluation.vqa_metrics import (
    accuracy_by_answer_type,
    accuracy_by_question_type,
    answer_accuracy,
    answer_type,
    normalise_answer,
    question_scores,
    vqa_accuracy,
    vqa_accuracy_by_question_type,
)
from modeling_albef.training.evaluation.vqa_records import QuestionRecord, read_annotations, read_questions

NORMALISED = {
    "  red\n": "red",  # ends
    "on\tthe\ntable": "on table",  # tabs and line breaks, articles
    "T-Shirt": "t shirt",  # a mark inside a word becomes a space
    "red, white": "red white",  # a mark beside a space is removed
    "left -right-hand": "left righthand",  # once beside a space, removed everywhere
    "yes!": "yes",  # at the end it becomes a space, which is lost
    "1,000": "1000",  # comma between digits
    "1,000 km/h": "1000 kmh",  # such a comma has all other marks removed, too
    "1, 2": "1 2",  # this one stands beside a space
    "a,b": "b",  # marks go before articles
    "St. Louis.": "st louis",  # periods
    "3.5": "3.5",  # but not before a digit
    "v.2": "v.2",
    "7.": "7",
    ". " * 33: ".",  # at most 32 periods
    "it's 8:30": "it's 8:30",  # apostrophe and colon are no marks
    "50%": "50%",
    "None": "0",  # number words
    "TEN": "10",
    "eleven": "eleven",
    "one-two": "1 2",  # marks go before number words
    "an apple": "apple",  # articles
    "The": "",
    "theatre": "theatre",
    "dont know": "don't know",  # contractions
    "couldntve": "couldntve",  # one apostrophe is put back, not two
    "couldnt've": "couldn't've",
    "couldn'tve": "couldn't've",
    "Im": "im",  # the official table has these with a capital, which lower-cased words never meet
    "somebody'd": "somebodyd",
    "somebodyd": "somebodyd",
    "shed": "shed",  # words of their own are not in the table
    "o'clock": "o'clock",
    "": "",
}


@pytest.mark.parametrize(("answer", "expected"), [*NORMALISED.items()])
def test_normalisation(answer: str, expected: str) -> None:
    assert normalise_answer(answer) == expected


@pytest.mark.parametrize(("matches", "expected"), [*enumerate([0, 30, 60, 90] + [100] * 7)])
def test_leave_one_out_of_ten(matches: int, expected: float) -> None:
    truths = ["blue"] * matches + ["red"] * (10 - matches)
    assert answer_accuracy("blue", truths) == expected


@pytest.mark.parametrize("number", [4, 5, 9, 12])
def test_other_numbers_of_annotators_follow_the_same_rule(number: int) -> None:
    for matches in range(number + 1):
        truths = ["blue"] * matches + [f"red {other}" for other in range(number - matches)]
        groups = [truths[:left_out] + truths[left_out + 1 :] for left_out in range(number)]
        mean = sum(min(1, group.count("blue") / 3) for group in groups) / number
        assert answer_accuracy("blue", truths) == pytest.approx(100 * mean)


def test_few_annotators_have_to_match_all() -> None:
    assert answer_accuracy("blue", ["blue"]) == 100
    assert answer_accuracy("blue", ["red"]) == 0
    assert answer_accuracy("blue", ["blue", "blue"]) == 100
    assert answer_accuracy("blue", ["blue", "red"]) == 50
    assert answer_accuracy("blue", ["blue", "blue", "blue"]) == 100
    assert answer_accuracy("blue", ["blue", "blue", "red"]) == pytest.approx(100 * (0.5 + 0.5 + 1) / 3)


def test_answers_are_normalised_only_where_annotators_disagree() -> None:
    assert answer_accuracy("The dog", ["dog"] * 9 + ["cat"]) == 100
    assert answer_accuracy("dog", ["The dog"] * 9 + ["cat"]) == 100
    assert answer_accuracy("The dog", ["dog"] * 10) == 0
    assert answer_accuracy("Yes", ["yes"] * 10) == 0
    assert answer_accuracy("The dog", ["The dog"] * 10) == 100
    assert answer_accuracy("yes\n", [" yes"] * 5 + ["yes\t"] * 5) == 100  # space at the ends is no disagreement
    assert answer_accuracy("Yes", [" yes"] * 5 + ["yes\t"] * 5) == 0


# answer, what the annotators say, and its accuracy by today's rules and by those of salesforce/ALBEF
RULES_DIFFER = {
    "both sides are normalised where annotators disagree, or the prediction alone": (
        ("two", ["two"] * 9 + ["three"], 100, 0),
        ("2", ["two"] * 6 + ["2"] * 4, 100, 100),
        ("2", ["two"] * 8 + ["2"] * 2, 100, 60),
        ("the dog", ["the dog"] * 9 + ["cat"], 100, 0),
        ("dog", ["dog"] * 2 + ["The dog"] * 8, 100, 60),
        ("dont know", ["dont know"] * 9 + ["yes"], 100, 0),
        ("Red", ["Red"] * 9 + ["blue"], 100, 0),
    ),
    "annotators who agree are met to the letter, or by a normalised prediction": (
        ("none", ["none"] * 10, 100, 0),
        ("0", ["none"] * 10, 0, 0),
        ("0", ["0"] * 10, 100, 100),
        ("zero", ["0"] * 10, 0, 100),
        ("Yes", ["yes"] * 10, 0, 100),
        ("yes.", ["yes"] * 10, 0, 100),
        ("Stop", ["Stop"] * 10, 100, 0),
        ("a", ["a"] * 10, 100, 0),
        ("8:30", ["8:30"] * 10, 100, 100),
        ("t-shirt", ["t-shirt"] * 10, 100, 0),
        ("t shirt", ["t-shirt"] * 10, 0, 0),
    ),
    "punctuation of annotators who disagree is normalised by both": (
        ("t shirt", ["t-shirt"] * 9 + ["shirt"], 100, 100),
        ("t-shirt", ["t-shirt"] * 9 + ["shirt"], 100, 100),
        ("yes", ["yes."] * 9 + ["no"], 100, 100),
        ("1000", ["1,000"] * 9 + ["100"], 100, 100),
        ("yes", ["yes!"] * 9 + ["no"], 100, 0),  # the mark becomes a space, which stays at the end
    ),
    "space at the ends is no disagreement, or one": (
        ("yes", ["yes "] * 4 + ["yes"] * 6, 100, 100),
        ("yes", ["yes "] * 8 + ["yes"] * 2, 100, 60),
        ("Yes", ["yes "] * 8 + ["yes"] * 2, 0, 60),
        ("yes", ["yes\n"] * 10, 100, 0),
    ),
    "the same by both": (
        ("blue", ["blue"] * 3 + ["red"] * 7, 90, 90),
        ("blue", ["blue"] * 2 + ["red"] * 8, 60, 60),
        ("green", ["blue"] * 3 + ["red"] * 7, 0, 0),
        ("yes", ["yes"], 100, 100),
        ("yes", ["yes", "no"], 50, 50),
    ),
}


@pytest.mark.parametrize(
    ("answer", "truths", "today", "original"), [case for cases in RULES_DIFFER.values() for case in cases]
)
def test_both_rules(answer: str, truths: list[str], today: float, original: float) -> None:
    assert answer_accuracy(answer, truths) == answer_accuracy(answer, truths, "vqa") == pytest.approx(today)
    assert answer_accuracy(answer, truths, "albef") == pytest.approx(original)


def test_both_rules_of_a_whole_set() -> None:
    """The mean over questions, also by type, and of the guesser that sees no image."""
    cases = [case for cases in RULES_DIFFER.values() for case in cases]
    records = [record(key, truths, question_type="any") for key, (_, truths, _, _) in enumerate(cases)]
    answers = {key: answer for key, (answer, *_) in enumerate(cases)}
    for rules, column in (("vqa", 2), ("albef", 3)):
        mean = sum(case[column] for case in cases) / len(cases)
        result = vqa_accuracy(answers, records, rules=rules)
        assert result["vqa_accuracy"] == pytest.approx(mean)
        assert vqa_accuracy_by_question_type(answers, records, rules=rules) == {"any": pytest.approx(mean)}
    train = {"question": ["how many?"], "answers": [["two"]]}
    test = {"question": ["how many?"], "question_id": [1], "answers": [["two"] * 9 + ["three"]]}
    assert question_only_accuracy(train, test) == 100 and question_only_accuracy(train, test, rules="albef") == 0


def test_unknown_rules() -> None:
    for measure in (lambda: answer_accuracy("a", ["a"], "ALBEF"), lambda: vqa_accuracy({}, [], "official")):
        with pytest.raises(ValueError, match="but must be 'vqa' or 'albef'"):
            measure()


def test_an_answer_needs_ground_truths() -> None:
    for truths in ([], "yes"):
        with pytest.raises(ValueError, match="at least one annotator"):
            answer_accuracy("yes", truths)


def record(question_id: int, answers: list[str], **more: Any) -> QuestionRecord:
    return QuestionRecord(question_id, answers=tuple(answers), **more)


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        (["Yes", "yes", "maybe"], "yes/no"),
        (["no."], "yes/no"),
        (["2", "3", "2"], "number"),
        (["two"], "number"),
        (["3.5"], "number"),
        (["8:30"], "number"),
        (["none"], "other"),
        (["2 dogs"], "other"),
        (["red", "1"], "other"),  # the first of equally frequent ones
    ],
)
def test_derived_type(answers: list[str], expected: str) -> None:
    assert answer_type(record(1, answers)) == expected
    assert answer_type(record(1, answers, answer_type="number")) == "number"


MIXED = [
    record(1, ["yes"] * 10),
    record(2, ["no"] * 8 + ["yes"] * 2),
    record(3, ["3"] * 9 + ["4"]),
    record(4, ["red"] * 7 + ["dark red"] * 3, answer_type="other"),
]
ANSWERS = {1: "yes", 2: "yes", 3: "4", 4: "dark red"}  # 100, 60, 30, 90


def test_accuracy_by_answer_type() -> None:
    expected = {
        "vqa_accuracy": 70.0,
        "vqa_accuracy_yes_no": 80.0,
        "vqa_accuracy_number": 30.0,
        "vqa_accuracy_other": 90.0,
    }
    assert vqa_accuracy(ANSWERS, MIXED) == pytest.approx(expected)
    rows = [{"question_id": key, "answer": answer} for key, answer in reversed(ANSWERS.items())]
    assert vqa_accuracy(rows, MIXED) == pytest.approx(expected)


def test_an_annotated_type_of_another_name_has_its_own_metric() -> None:
    typed = [
        record(1, ["yes"] * 10, answer_type="other"),  # as annotated, whatever the answer
        record(2, ["unanswerable"] * 10, answer_type="unanswerable"),
        record(3, ["2"] * 10, answer_type="Not sure / unclear"),
        record(4, ["2"] * 10),
    ]
    result = vqa_accuracy({1: "yes", 2: "red", 3: "2", 4: "3"}, typed)
    assert result == {
        "vqa_accuracy": 50.0,
        "vqa_accuracy_number": 0.0,
        "vqa_accuracy_other": 100.0,
        "vqa_accuracy_not_sure_unclear": 100.0,
        "vqa_accuracy_unanswerable": 0.0,
    }


def test_types_that_do_not_occur_are_left_out() -> None:
    assert vqa_accuracy({1: "yes"}, MIXED[:1]) == {"vqa_accuracy": 100.0, "vqa_accuracy_yes_no": 100.0}


def test_nothing_is_rounded() -> None:
    three = [record(key, ["yes"] * 9 + ["no"]) for key in range(3)]
    assert vqa_accuracy(dict.fromkeys(range(3), "yes") | {0: "blue"}, three)["vqa_accuracy"] == pytest.approx(200 / 3)


def test_accuracy_by_question_type() -> None:
    typed = [record(key, ["yes"] * 10, question_type=kind) for key, kind in enumerate(["what", "is the", "what"])]
    result = vqa_accuracy_by_question_type({0: "yes", 1: "no", 2: "no"}, typed)
    assert list(result.items()) == [("is the", 0.0), ("what", 50.0)]
    with pytest.raises(ValueError, match="No question_type for question 4"):
        vqa_accuracy_by_question_type({4: "red"}, MIXED[3:])


@pytest.mark.parametrize(
    ("predictions", "annotations", "message"),
    [
        ({1: "yes", 3: "4"}, MIXED, "No prediction for question 2, 4"),
        (ANSWERS | {9: "x"}, MIXED, "No annotation for question 9"),
        (ANSWERS | {3: 4}, MIXED, "question 3 is 4: a string"),
        ([{"question_id": 1, "answer": "a"}] * 2, MIXED, "Two predictions for question 1"),
        ([{"question_id": 1}], MIXED, "Prediction 0 is {'question_id': 1}"),
        (ANSWERS, [*MIXED, MIXED[2]], "Two annotations for question 3"),
        ({5: "yes"}, [QuestionRecord(5)], "No annotator's answer for question 5"),
        ({}, MIXED * 9, "Two annotations for question 1, 2, 3, 4: "),
        ({}, [record(key, ["a"]) for key in range(8)], "question 0, 1, 2, 3, 4 and 3 more"),
        ({}, [], "nothing to measure"),
    ],
)
def test_each_question_has_one_prediction(predictions: Any, annotations: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        vqa_accuracy(predictions, annotations)


QUESTION = {"image_id": 7, "question": "Is it red?", "question_id": 7001}
ANNOTATION = {
    "question_type": "is it",
    "multiple_choice_answer": "yes",
    "answers": [{"answer": "yes", "answer_confidence": "maybe", "answer_id": 1}, {"answer": "no", "answer_id": 2}],
    "image_id": 7,
    "answer_type": "yes/no",
    "question_id": 7001,
}
ROW = {"question_id": 7001, "question": "Is it red?", "image": "7.jpg", "answer": ["yes", "no"], "dataset": "vqa"}


def write(path: Path, content: Any) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def test_official_files(tmp_path: Path) -> None:
    questions = write(tmp_path / "q.json", {"info": {}, "questions": [QUESTION]})
    assert read_questions(questions) == [QuestionRecord(7001, "Is it red?", image_id=7)]
    annotations = write(tmp_path / "a.json", {"info": {}, "annotations": [ANNOTATION]})
    expected = record(7001, ["yes", "no"], image_id=7, answer_type="yes/no", question_type="is it")
    assert read_annotations(str(annotations)) == [expected]


def test_files_of_albef(tmp_path: Path) -> None:
    expected = record(7001, ["yes", "no"], question="Is it red?", image="7.jpg")
    path = write(tmp_path / "vqa_val.json", [ROW])
    assert read_annotations(path) == read_questions(path) == [expected]
    without = {key: value for key, value in ROW.items() if key != "answer"}
    assert read_questions(write(tmp_path / "vqa_test.json", [without]))[0].answers == ()
    assert read_annotations(write(tmp_path / "vg_qa.json", [ROW | {"answer": "yes"}]))[0].answers == ("yes",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "a.json is not a JSON file"),
        ("3", "a.json holds a value of type int"),
        ("[]", "a.json has no rows"),
        ({"questions": [QUESTION]}, r"holds the keys \['questions'\]: a list of objects, or {\"annotations\": \[..\]}"),
        ([ROW, ROW], "row 2: question_id 7001 occurs a second time: keep one"),
        ([ROW, "x"], "row 2: is 'x', not an object"),
        ([QUESTION], "row 1: has no 'answers'"),
        ([{"answer": ["yes"]}], "row 1: has no 'question_id', its keys are"),
        ([ROW | {"question_id": "7001"}], "'question_id' is '7001': an integer is expected"),
        ([ROW | {"question_id": True}], "'question_id' is True: an integer is expected"),
        ([ROW | {"question": 3}], "'question' is 3: a string is expected"),
        ([ROW | {"answer": []}], r"'answer' is \[\]: at least one answer"),
        ([ROW | {"answer": ["yes", 2]}], "'answer' holds 2"),
        ([ANNOTATION | {"answers": [{"answer_id": 1}]}], "'answers' holds None"),
        ([ANNOTATION | {"answer_type": 3}], "'answer_type' is 3: a string is expected"),
    ],
)
def test_unusable_files(tmp_path: Path, content: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        read_annotations(write(tmp_path / "a.json", content))
    assert str(tmp_path / "a.json") in str(caught.value)


def test_unusable_questions(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="row 1: has no 'question', its keys are"):
        read_questions(write(tmp_path / "q.json", {"questions": [ANNOTATION]}))
    with pytest.raises(ValueError, match=r"absent\.json cannot be read"):
        read_questions(tmp_path / "absent.json")


def test_always_yes_on_a_small_part_of_vqa_v2() -> None:
    """131 questions with as many "yes" among their ten answers as in a part of VQA v2; the official figure is 21.76."""
    questions_with = {0: 100, 1: 1, 2: 4, 3: 2, 5: 1, 7: 4, 8: 2, 9: 4, 10: 13}
    counts = [count for count, questions in questions_with.items() for _ in range(questions)]
    records = [
        QuestionRecord(question_id=number, answers=("yes",) * count + ("no",) * (10 - count))
        for number, count in enumerate(counts)
    ]
    accuracy = vqa_accuracy({number: "yes" for number in range(len(records))}, records)["vqa_accuracy"]
    assert len(records) == 131 and round(accuracy, 2) == 21.76


def test_answers_that_count_as_one() -> None:
    """`fold` meets both sides, in every way to ask for an accuracy."""
    same = {"couch": "sofa", "grey": "gray"}
    given = [
        record(1, ["sofa"] * 10, question_type="what"),
        record(2, ["grey"] * 2 + ["red"] * 8, question_type="what color"),
    ]
    predictions = {1: "couch", 2: "gray"}

    def fold(answer: str) -> str:
        return same.get(answer, answer)

    assert question_scores(predictions, given) == [0.0, 0.0]
    assert question_scores(predictions, given, fold=fold) == pytest.approx([100.0, 60.0])
    assert vqa_accuracy(predictions, given, fold=fold)["vqa_accuracy"] == pytest.approx(80.0)
    by_type = vqa_accuracy_by_question_type(predictions, given, fold=fold)
    assert by_type == pytest.approx({"what": 100.0, "what color": 60.0})
    assert vqa_accuracy_by_question_type(predictions, given) == {"what": 0.0, "what color": 0.0}


def test_rules_reach_every_question() -> None:
    """An annotator's capital is never met by the rules of ALBEF."""
    given = [record(1, ["Red"] * 9 + ["blue"], question_type="what")]
    assert question_scores({1: "red"}, given) == [100.0]
    assert question_scores({1: "red"}, given, "albef") == [0.0]
    assert vqa_accuracy({1: "red"}, given, "albef")["vqa_accuracy"] == 0.0
    assert vqa_accuracy_by_question_type({1: "red"}, given, "albef") == {"what": 0.0}
    assert vqa_accuracy_by_question_type({1: "red"}, given) == {"what": 100.0}


@pytest.mark.parametrize("space", ["\n", "\t"])
def test_line_breaks_and_tabs_are_spaces_even_to_the_letter(space: str) -> None:
    """Where all annotators agree an answer is met to the letter, but for these."""
    assert answer_accuracy(f"no{space}parking", ["no parking"] * 10) == 100.0
    assert answer_accuracy("no parking", [f"no{space}parking "] * 10) == 100.0
    assert answer_accuracy("No parking", ["no parking"] * 10) == 0.0


def test_names_of_metrics_of_odd_types() -> None:
    typed = [record(number, ["a"] * 3, answer_type=name) for number, name in enumerate(["(Odd) one?", "?!"])]
    assert list(vqa_accuracy({0: "a", 1: "b"}, typed)) == [
        "vqa_accuracy",
        "vqa_accuracy_odd_one",
        "vqa_accuracy_unnamed",
    ]


def test_five_questions_are_listed_whole_of_six_one_is_counted() -> None:
    for count, words in ((5, "question 0, 1, 2, 3, 4:"), (6, "question 0, 1, 2, 3, 4 and 1 more:")):
        with pytest.raises(ValueError, match=f"No prediction for {words}"):
            vqa_accuracy({}, [record(number, ["a"]) for number in range(count)])


def test_a_score_for_each_annotation() -> None:
    typed = [record(1, ["a"], question_type="what"), record(2, ["a"], question_type="what")]
    for measure in (accuracy_by_answer_type, accuracy_by_question_type):
        with pytest.raises(ValueError, match="zip"):
            measure([100.0], typed)
