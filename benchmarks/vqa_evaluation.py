"""Ranking of answers: our engine against the published algorithm, same model, same inputs, images encoded too.

    python -m benchmarks.vqa_evaluation --answer_list answer_list.json --tokenizer bert-base-uncased [--output x.json]
    python -m benchmarks.vqa_evaluation --only confident --model output/NAME --answer_list .. --tokenizer ..

Base size, 384 pixels, random weights, k 128, 5 questions an image of 6 to 12 tokens. The published algorithm encodes
the image for each question, pads every candidate to the longest, and scores the vocabulary everywhere; see
`published.py`. The case "confident" takes a model that was fine-tuned on the drawn shapes, with the whole answer list,
and compares all probabilities with the best answer only. Without an answer list, answers of like lengths are drawn.
"""

from __future__ import annotations

from typing import Any

import torch

from benchmarks import published
from benchmarks.measure import arguments, compare, report
from dataset_scripts import load_answer_list, load_dataset_script
from modeling_albef import AlbefConfig, AlbefForQuestionAnswering, AnswerTree
from modeling_albef.products_albef import inference
from processing import AlbefImageProcessor, AlbefProcessor, load_tokenizer

SMALL = {"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
QUESTIONS_AN_IMAGE = 5
CLS, SEP = 101, 102


def draw_answers(count: int) -> dict[str, torch.Tensor]:
    """Candidates whose lengths are those of the released list: 62 % of one token, 24 % of two, 14 % of three."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.multinomial(torch.tensor([0.62, 0.24, 0.14]), count, replacement=True, generator=generator) + 1
    ids = torch.randint(1000, 3200, (count, 5), generator=generator)
    positions = torch.arange(5)
    ids = ids.masked_fill(positions == 0, CLS).masked_fill(positions == lengths[:, None] + 1, SEP)
    mask = (positions <= lengths[:, None] + 1).long()
    return {"input_ids": ids * mask, "attention_mask": mask}


def candidates_of(args: Any) -> dict[str, torch.Tensor]:
    """The answer list, encoded, or a drawn one."""
    if args.answer_list is None:
        return draw_answers(3128)
    processor = AlbefProcessor(AlbefImageProcessor(), load_tokenizer(args.tokenizer))
    return dict(processor.encode_answers(load_answer_list(args.answer_list)))


def make_inputs(config: AlbefConfig, images: int) -> dict[str, torch.Tensor]:
    """Noise images with five questions each."""
    generator = torch.Generator().manual_seed(1)
    count, side = images * QUESTIONS_AN_IMAGE, config.vision_config.image_size
    lengths = torch.randint(6, 13, (count,), generator=generator)
    mask = (torch.arange(int(lengths.max())) < lengths[:, None]).long()
    return {
        "pixel_values": torch.randn(images, 3, side, side, generator=generator),
        "input_ids": torch.randint(1000, 30_000, mask.shape, generator=generator) * mask,
        "attention_mask": mask,
        "image_index": torch.arange(images).repeat_interleave(QUESTIONS_AN_IMAGE),
    }


def all_probabilities(args: Any) -> dict[str, float]:
    """Every probability of the k candidates, against the published algorithm."""
    torch.manual_seed(0)
    config = AlbefConfig(text_config={"initializer_range": 0.05}, initializer_range=0.05)
    if args.quick:
        text = {**SMALL, "num_fusion_layers": 1}
        config = AlbefConfig(vision_config={**SMALL, "image_size": 64}, text_config=text)
    model = AlbefForQuestionAnswering(config).eval()
    candidates, k, inputs = candidates_of(args), 16 if args.quick else 128, make_inputs(config, 1 if args.quick else 3)
    tree = AnswerTree.from_tokens(**candidates)
    alone = {name: inputs[name] for name in ("input_ids", "attention_mask")}

    def ours() -> Any:
        with torch.inference_mode(), inference():
            ranked = model.rank_answers(**inputs, candidates=tree, k=k)
        return ranked.ids, ranked.probabilities

    def plain() -> Any:
        images = inputs["pixel_values"][inputs["image_index"]]
        with torch.inference_mode():
            return published.rank_answers(
                model, images, **alone, candidate_ids=candidates["input_ids"],
                candidate_mask=candidates["attention_mask"], k=k,
            )  # fmt: skip

    def difference(own: Any, theirs: Any) -> float:
        if not torch.equal(own[0].sort(dim=1).values, theirs[0].sort(dim=1).values):
            raise SystemExit("Other candidates were chosen.")
        dense = [torch.zeros(len(ids), tree.paths.shape[0]).scatter(1, ids, found) for ids, found in (own, theirs)]
        swapped = own[0] != theirs[0]
        if (dense[0].gather(1, own[0]) - dense[0].gather(1, theirs[0])).abs()[swapped].sum() > 1e-6:
            raise SystemExit("The candidates were ranked otherwise.")
        return (dense[0] - dense[1]).abs().max().item()

    ours()
    return compare(ours, plain, difference, args.runs)


def confident(args: Any) -> dict[str, float]:
    """Best answer only against all probabilities, on a fine-tuned model and its own questions."""
    model = AlbefForQuestionAnswering.from_pretrained(args.model).eval()
    processor = AlbefProcessor.from_pretrained(args.model)
    answers = load_answer_list(args.answer_list)
    tree = AnswerTree.from_tokens(**processor.encode_answers(answers))
    data = load_dataset_script("shapes", "vqa", split="test").select(range(40 if args.quick else 200))
    row_of: dict[int, int] = {}
    index = torch.tensor([row_of.setdefault(image_id, len(row_of)) for image_id in data["image_id"]])
    first = [index.tolist().index(number) for number in range(len(row_of))]
    inputs = processor(
        images=[data[row]["image"] for row in first], text=list(data["question"]), text_type="question",
        padding=True, return_tensors="pt",
    )  # fmt: skip

    def rank(best_only: bool) -> torch.Tensor:
        with torch.inference_mode(), inference():
            return model.rank_answers(**inputs, image_index=index, candidates=tree, best_only=best_only).ids[:, :1]

    def difference(own: torch.Tensor, theirs: torch.Tensor) -> float:
        return (own != theirs).sum().item()

    rank(True)
    figures = compare(lambda: rank(True), lambda: rank(False), difference, args.runs)
    right = [answers[best] == given[0] for best, given in zip(rank(True)[:, 0].tolist(), data["answers"], strict=True)]
    return {**figures, "questions": len(data), "other_answers": figures["max_score_difference"], "right": sum(right)}


def main() -> None:
    """Runs the cases."""
    parser = arguments(__doc__)
    parser.add_argument("--answer_list", help="JSON list of candidate answers")
    parser.add_argument("--tokenizer", help="folder with BERT's vocab.txt, or a Hub name")
    parser.add_argument("--model", help="folder of a model fine-tuned on the drawn shapes with that tokenizer")
    args = parser.parse_args()
    cases = {}
    if not args.only or "all" in args.only:
        cases["all probabilities"] = all_probabilities(args)
    if args.model is not None:
        cases["best answer only, confident model"] = confident(args)
    report(cases, args.output)


if __name__ == "__main__":
    main()
