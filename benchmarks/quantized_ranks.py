"""Whether a trained retrieval model ranks alike with weights of eight bits: recalls, and the correlation of ranks.

    python -m benchmarks.quantized_ranks --model FOLDER [--rows 200] [--output results.json]

FOLDER has a model that was fine-tuned on the drawn shapes, such as that of `configs/demo_retrieval.yaml`. Its linear
maps are quantized dynamically by torch. Ranks of random weights say nothing: their scores are all about the same.
"""

from __future__ import annotations

import warnings
from functools import partial
from typing import Any

import torch

from benchmarks.measure import arguments, report, run_once
from dataset_scripts import load_dataset_script
from modeling_albef import AlbefForImageTextRetrieval
from modeling_albef.training import RetrievalEvaluator
from processing import AlbefProcessor


def rank_correlation(first: Any, second: Any) -> float:
    """Spearman's correlation of the scores of the same candidates, mean over the queries."""
    found = []
    for ids, scores, other_ids, other_scores in zip(first.ids, first.scores, second.ids, second.scores, strict=True):
        own, theirs = scores[ids.argsort()], other_scores[other_ids.argsort()]
        ranks = torch.stack([own.argsort().argsort(), theirs.argsort().argsort()]).double()
        found.append(torch.corrcoef(ranks)[0, 1])
    return torch.stack(found).mean().item()


def compare_precisions(model: Any, processor: Any, dataset: Any) -> dict[str, float]:
    """Evaluate in float32 and in int8; both re-rank the whole gallery."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch points to another package
        quantized = torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear}, dtype=torch.qint8)
    seconds, results = [], []
    for one in (model, quantized):
        evaluator = RetrievalEvaluator(one, processor, k_test=100_000, batch_size=16)
        taken, _, result = run_once(partial(evaluator, dataset))
        seconds.append(taken)
        results.append(result)
    exact, rough = results
    figures = {f"{name}, {kind}": result.metrics[name] for name in ("txt_r1", "img_r1", "r_mean")
               for kind, result in (("float32", exact), ("int8", rough))}  # fmt: skip
    return {
        **figures,
        "rank correlation, texts": rank_correlation(exact.image_to_text, rough.image_to_text),
        "rank correlation, images": rank_correlation(exact.text_to_image, rough.text_to_image),
        "times as fast": seconds[0] / seconds[1],
    }


def main() -> None:
    """Runs the case."""
    parser = arguments(__doc__)
    parser.add_argument("--model", required=True, help="folder of a model fine-tuned on the drawn shapes")
    parser.add_argument("--rows", type=int, default=200, help="images of the test split")
    args = parser.parse_args()
    model = AlbefForImageTextRetrieval.from_pretrained(args.model).eval()
    data = load_dataset_script("shapes", "retrieval", split="test")
    data = data.select(range(min(16 if args.quick else args.rows, len(data))))
    figures = compare_precisions(model, AlbefProcessor.from_pretrained(args.model), data)
    report({"int8 beside float32": figures}, args.output)


if __name__ == "__main__":
    main()
