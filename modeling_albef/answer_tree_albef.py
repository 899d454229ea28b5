# Copyright 2026 The ALBEF for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Scoring many candidate answers of a question and no token twice.

The candidates form a tree of their tokens, so a beginning that several share is decoded once; the start token is
decoded once a question, and its keys and values are kept. All nodes of all questions go through the decoder's layers
together: every linear map is one product, and a node sees its question's start token, its ancestors, and itself. The
vocabulary is scored at the nodes alone.

Which nodes are needed is found on the CPU, for all questions of a call; a GPU gets the indices of a part in one copy,
and is never asked for a size.

Shapes: B questions, M question tokens, C candidates, L tokens of a candidate, k candidates of a question, V nodes of
the tree, D its depth, N nodes that a question needs, S those of all questions, H width, d width of a head.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from transformers.cache_utils import DynamicCache
from transformers.utils import ModelOutput

from .attention_albef import KeyValue, PaddedRows
from .configuration_albef import AlbefError, check_shapes
from .modeling_albef_text import AlbefTextSelfAttention

if TYPE_CHECKING:
    from .modeling_albef_decoder import AlbefTextDecoder

NODES_A_BATCH = 1024  # 125 MB of logits with BERT's vocabulary
MARGIN = 1e-4  # rounding of a sum of log-probabilities, of which none can exceed 0


@dataclass
class RankedAnswers(ModelOutput):
    """Candidates of each question, best first.

    Attributes:
        ids: (B, k) indices into the candidate list.
        probabilities: (B, k) softmax over the k candidates; rows sum to 1 and fall. None where only the best candidate
            was looked for.
    """

    ids: torch.Tensor | None = None
    probabilities: torch.Tensor | None = None


@dataclass(frozen=True)
class AnswerTree:
    """Candidate answers as a tree. A node is a token after certain others; V itself stands for "no node".

    Attributes:
        tokens: (V,) token of each node.
        ancestors: (V + 1, D) path from the root to each node, itself included.
        paths: (C, D) nodes of each candidate, its last token ([SEP]) left out, which has nothing after it.
        first_tokens: (C,) token after `[CLS]`.
        last_tokens: (C,).
        start_token: `[CLS]`.
        mean_depth: Nodes of a candidate, on average.
    """

    tokens: torch.Tensor
    ancestors: torch.Tensor
    paths: torch.Tensor
    first_tokens: torch.Tensor
    last_tokens: torch.Tensor
    start_token: int
    mean_depth: float

    @classmethod
    def from_tokens(cls, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> AnswerTree:
        """Build the tree.

        Args:
            input_ids: (C, L) `[CLS] a1 .. an [SEP]`.
            attention_mask: (C, L), 1 = token; padding may be on either side.

        Returns:
            On the device of `input_ids`.

        Raises:
            ValueError: A candidate has no token after the first, or a shape is wrong.
        """
        check_shapes(input_ids=(input_ids, "CL"), attention_mask=(attention_mask, "CL"))
        is_token = attention_mask.bool()
        rows = [row.tolist() for row in input_ids[is_token].split(is_token.sum(dim=1).tolist())]
        short = next((index for index, row in enumerate(rows) if len(row) < 2), None)
        if short is not None:
            raise AlbefError(f"Candidate {short} is empty: leave it out.")
        node_of: dict[tuple[int, ...], int] = {}
        paths = []
        for row in rows:
            beginnings = [tuple(row[1:stop]) for stop in range(2, len(row))]
            paths.append([node_of.setdefault(beginning, len(node_of)) for beginning in beginnings])
        paths_from_root = [[node_of[start[:stop]] for stop in range(1, len(start) + 1)] for start in node_of]
        depth, none, device = max(1, *(len(path) for path in paths)), len(node_of), input_ids.device
        return cls(
            tokens=torch.tensor([beginning[-1] for beginning in node_of], dtype=torch.long, device=device),
            ancestors=torch.tensor(
                [path + [none] * (depth - len(path)) for path in [*paths_from_root, []]], device=device
            ),
            paths=torch.tensor([path + [none] * (depth - len(path)) for path in paths], device=device),
            first_tokens=torch.tensor([row[1] for row in rows], device=device),
            last_tokens=torch.tensor([row[-1] for row in rows], device=device),
            start_token=rows[0][0],
            mean_depth=sum(len(path) for path in paths) / len(paths),
        )

    of = from_tokens  # a shorter name of the same

    def cpu(self) -> AnswerTree:
        """Return the tree with all its tensors in main memory."""
        return AnswerTree(
            self.tokens.cpu(),
            self.ancestors.cpu(),
            self.paths.cpu(),
            self.first_tokens.cpu(),
            self.last_tokens.cpu(),
            self.start_token,
            self.mean_depth,
        )


def merge_equal_answers(
    answers: Sequence[str], tokens: Sequence[Sequence[int]], count: Callable[[], Mapping[str, int]] = dict
) -> dict[str, list[str]]:
    """Group candidate answers that have the same tokens: a model cannot tell them apart.

    Args:
        answers: Spellings, all different.
        tokens: Token ids of each.
        count: Returns how often a spelling is used; called only where there is something to merge.

    Returns:
        The spelling that is kept, the most frequent of a group or else its first, and the others; in the order of
        `answers`.
    """
    groups: dict[tuple[int, ...], list[str]] = {}
    for answer, ids in zip(answers, tokens, strict=True):
        groups.setdefault(tuple(ids), []).append(answer)
    counts = count() if len(groups) < len(answers) else {}
    kept = {max(group, key=lambda answer: counts.get(answer, 0)): group for group in groups.values()}
    return {answer: [other for other in group if other != answer] for answer, group in kept.items()}


def describe_merged_answers(merged: Mapping[str, Sequence[str]], shown: int = 5) -> str | None:
    """Say in a sentence which spellings of candidate answers were merged; None where none was."""
    pairs = [f"{other!r} is {kept!r}" for kept, others in merged.items() for other in others]
    if not pairs:
        return None
    more = f" and {len(pairs) - shown} more" if len(pairs) > shown else ""
    return f"The tokenizer cannot tell all answers apart, and one spelling is kept: {', '.join(pairs[:shown])}{more}."


@dataclass(frozen=True)
class TreeNodes(PaddedRows):
    """Attention pattern of the nodes (1, S, H) that some questions need, question after question."""

    question: torch.Tensor  # (S,) of each node; counted among these questions
    slot: torch.Tensor  # (S,) its index among the N of its question
    node: torch.Tensor  # (S,) its index in the tree
    rows: torch.Tensor  # (B, V + 1) inverse map: index among the S of a question's node, S where it has none
    width: int  # N of the question that needs most
    implementation: str  # of the attention; it must take a mask of any form

    @classmethod
    def from_candidates(cls, tree: AnswerTree, chosen: torch.Tensor, implementation: str) -> TreeNodes:
        """Find the nodes that candidates `chosen` (B, k) need; best on the CPU, since a GPU would be waited for."""
        used = torch.zeros(len(chosen), len(tree.tokens) + 1, dtype=torch.bool, device=chosen.device)
        used.scatter_(1, tree.paths[chosen].flatten(1), True)
        used[:, -1] = False
        question, node = used.nonzero(as_tuple=True)
        rows = torch.full(used.shape, len(node), device=chosen.device)
        rows[question, node] = torch.arange(len(node), device=chosen.device)
        slot = used.cumsum(dim=1)[question, node] - 1
        width = int(slot.max()) + 1 if len(slot) else 0
        return cls(question, slot, node, rows, width, "eager" if implementation == "eager" else "sdpa")

    def moved(self, question: torch.Tensor, slot: torch.Tensor) -> TreeNodes:
        """Return the pattern with `question` and `slot` as they are on another device."""
        return TreeNodes(question, slot, self.node, self.rows, self.width, self.implementation)

    def seen(self, tree: AnswerTree) -> torch.Tensor:
        """Return the columns (S, D) that a node sees in the mask of `visible`; 1 + N stands for none."""
        slots = torch.cat([self.slot + 1, self.slot.new_tensor([1 + self.width])])
        return slots[self.rows[self.question[:, None], tree.ancestors[self.node]]]

    def visible(self, seen: torch.Tensor) -> torch.Tensor:
        """Return whether a node sees the start token (column 0) and its question's nodes: (B, 1, N, 1 + N)."""
        mask = torch.zeros(len(self.rows), self.width, 2 + self.width, dtype=torch.bool, device=seen.device)
        mask[..., 0] = True  # unused slots too: a row of nothing would give NaN
        mask[self.question[:, None], self.slot[:, None], seen] = True
        return mask[:, None, :, :-1]

    def spread(self, states: torch.Tensor, module: AlbefTextSelfAttention) -> torch.Tensor:
        """Turn (1, S, H) into (B, heads, N, d), zero in unused slots."""
        spread = states.new_zeros(len(self.rows), self.width, states.shape[2])
        return module.split_heads(spread.index_put((self.question, self.slot), states[0]))

    def gather(self, context: torch.Tensor) -> torch.Tensor:
        """Turn (B, N, H) into (1, S, H)."""
        return context[self.question, self.slot][None]

    def self_attention(
        self, module: AlbefTextSelfAttention, states: torch.Tensor, mask: torch.Tensor | None, cache: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return the context (1, S, H) of nodes that see what the mask says; `cache` has the start tokens."""
        query, key, value = (self.spread(linear(states), module) for linear in (module.query, module.key, module.value))
        key, value = cache.update(key, value, module.layer_index)
        context, probabilities = module.attend(query, key, value, mask, self.implementation, **kwargs)
        return self.gather(context), probabilities

    def cross_attention(
        self,
        module: AlbefTextSelfAttention,
        states: torch.Tensor,
        key_value: KeyValue,
        attention_mask: torch.Tensor | None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return the context (1, S, H) of nodes that see their question, of which `key_value` has a row each."""
        query = self.spread(module.query(states), module)
        context, probabilities = module.attend(query, *key_value, attention_mask, self.implementation, **kwargs)
        return self.gather(context), probabilities


@dataclass(frozen=True)
class _StartTokens:
    """Keys and values of the start tokens of some questions, as a cache that is not changed."""

    cache: DynamicCache
    questions: torch.Tensor

    def update(self, key: torch.Tensor, value: torch.Tensor, layer_index: int) -> KeyValue:
        """Return keys and values of start tokens and nodes, (B, heads, 1 + N, d)."""
        start: Any = self.cache.layers[layer_index]
        return torch.cat([start.keys[self.questions], key], 2), torch.cat([start.values[self.questions], value], 2)


class AnswerScorer:
    """The decoder at work on encoded questions; `first_scores` (B, C) are the log-probabilities of first tokens."""

    def __init__(
        self,
        decoder: AlbefTextDecoder,
        tree: AnswerTree,
        question_hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
    ) -> None:
        """Decode the start token, by a decoder in evaluation mode; `attention_mask` (B, M), None = no padding."""
        limit = decoder.config.max_position_embeddings
        if tree.paths.shape[1] >= limit:
            raise AlbefError(f"A candidate has {tree.paths.shape[1] + 1} tokens, but the decoder reads {limit}.")
        self.decoder, self.tree = decoder, tree.cpu()
        self.questions = decoder.project_questions(question_hidden_states)
        self.question_mask = attention_mask
        self.start = DynamicCache(config=decoder.config)
        count, device = len(question_hidden_states), question_hidden_states.device
        logits = decoder(
            torch.full((count, 1), tree.start_token, device=device),
            encoder_key_values=self.questions,
            encoder_attention_mask=attention_mask,
            cache=self.start,
        ).logits[:, 0]
        self.first_scores = logits.float().log_softmax(dim=-1).index_select(1, tree.first_tokens.to(device))

    def rank(self, k: int, count_first_token_twice: bool = True, best_only: bool = False) -> RankedAnswers:
        """Score the k candidates whose first token is the likeliest; for the options see `rank_answers` of the model.

        `best_only` skips candidates that cannot win: what their first token leaves them is no more than what another
        has in the end.
        """
        first_scores, chosen = self.first_scores.topk(min(k, self.first_scores.shape[1]))  # (B, k)
        first_token_bonus = first_scores if count_first_token_twice else torch.zeros_like(first_scores)
        if best_only:
            return RankedAnswers(ids=self._best(chosen, first_scores, first_token_bonus))
        scores, order = (self.score(chosen) + first_token_bonus).sort(descending=True, stable=True)
        return RankedAnswers(ids=chosen.gather(1, order), probabilities=scores.softmax(dim=1))

    def _best(self, chosen: torch.Tensor, first_scores: torch.Tensor, first_token_bonus: torch.Tensor) -> torch.Tensor:
        """Return the index (B, 1) of the best; candidates are scored in groups, the likeliest first token first."""
        count, k = chosen.shape
        bounds = first_scores + first_token_bonus
        best, column = bounds.new_full((count,), -torch.inf), torch.zeros_like(chosen[:, 0])
        open_rows, start, width = torch.arange(count, device=chosen.device), 0, 2
        while len(open_rows) and start < k:
            group = slice(start, min(start + width, k))
            scores = self.score(chosen[open_rows, group], open_rows) + first_token_bonus[open_rows, group]
            found, where = scores.max(dim=1)
            better = found > best[open_rows]
            column[open_rows] = torch.where(better, where + start, column[open_rows])
            best[open_rows] = torch.where(better, found, best[open_rows])
            start, width = group.stop, 2 * width
            if start < k:
                open_rows = open_rows[bounds[open_rows, start] + MARGIN >= best[open_rows]]
        return chosen.gather(1, column[:, None])

    def score(self, chosen: torch.Tensor, questions: torch.Tensor | None = None) -> torch.Tensor:
        """Return log-probabilities (b, k), float32, of candidates (b, k) of the questions (b,), by default of all."""
        if questions is None:
            questions = torch.arange(len(chosen), device=chosen.device)
        first_scores = self.first_scores[questions[:, None], chosen]
        size = max(1, self._nodes_a_batch() // max(1, round(chosen.shape[1] * self.tree.mean_depth)))
        here = chosen.cpu()  # the only time that a GPU is waited for
        parts = zip(here.split(size), questions.split(size), first_scores.split(size), strict=True)
        return torch.cat([self._score(*part) for part in parts])

    def _nodes_a_batch(self) -> int:
        """Return how many nodes are decoded together: on a GPU as many as have their logits in an eighth of it."""
        device = self.first_scores.device
        if device.type != "cuda":
            return NODES_A_BATCH
        memory = torch.cuda.get_device_properties(device).total_memory  # not the free part: runs are to be equal
        return max(NODES_A_BATCH, memory // 8 // (12 * self.decoder.config.vocab_size))  # float32, three times

    def _score(self, chosen: torch.Tensor, questions: torch.Tensor, first_scores: torch.Tensor) -> torch.Tensor:
        """Return log-probabilities (b, k) of candidates (b, k), which are in main memory, as are all indices here."""
        tree = self.tree
        nodes = TreeNodes.from_candidates(tree, chosen, self.decoder.config._attn_implementation)
        count, row = len(nodes.node), torch.arange(len(chosen), device="cpu")[:, None]
        if not count:
            return first_scores
        ends = nodes.rows[row, last_node(tree.paths[chosen], len(tree.tokens))]  # (b, k); S: right after the start
        path_from_root = tree.ancestors[nodes.node]  # (S, D)
        depth = (path_from_root != len(tree.tokens)).sum(dim=1)
        # A node after the first adds its probability after its parent. Row S gathers what is not there.
        parent_node = path_from_root.gather(1, (depth - 2).clamp(min=0)[:, None])[:, 0]
        parent = nodes.rows[nodes.question, parent_node]
        path = nodes.rows[row[:, :, None], tree.paths[chosen]]  # (b, k, D)
        index = (nodes.question, nodes.slot, tree.tokens[nodes.node], depth, nodes.seen(tree))
        question, slot, tokens, depth, seen, parent, path, ends, last = _to_device(
            (*index, parent, path, ends, tree.last_tokens[chosen]), first_scores.device
        )
        states = self._decode(nodes.moved(question, slot), tokens, depth, seen, questions)
        logits = self.decoder.head(states).float()
        normaliser = logits.logsumexp(dim=-1)
        steps = torch.where(depth > 1, logits[parent, tokens] - normaliser[parent], 0.0)
        steps = torch.cat([steps, steps.new_zeros(1)])
        total = first_scores + steps[path].sum(dim=-1)
        safe = ends.clamp(max=count - 1)
        end_scores = logits[safe, last] - normaliser[safe]
        return total + torch.where(ends < count, end_scores, 0.0)

    def _decode(
        self,
        nodes: TreeNodes,
        tokens: torch.Tensor,
        depth: torch.Tensor,
        seen: torch.Tensor,
        questions: torch.Tensor,
    ) -> torch.Tensor:
        """Return states (S, H) of nodes after the last layer; `seen` is what `TreeNodes.seen` gives."""
        states = self.decoder.embeddings(tokens[None], depth[None])  # (1, S, H)
        mask, cross_mask = _additive(nodes.visible(seen), states.dtype), None
        if self.question_mask is not None:
            cross_mask = _additive(self.question_mask[questions].bool()[:, None, None], states.dtype)
        start: Any = _StartTokens(self.start, questions)
        for layer, question in zip(self.decoder.layer, self.questions, strict=True):
            key, value = (tensor[questions] for tensor in question)
            states = layer(states, mask, key, value, cross_mask, cache=start, pattern=nodes)
        return states[0]


def _to_device(tensors: Sequence[torch.Tensor], device: torch.device) -> list[torch.Tensor]:
    """Return integer tensors on a device, in one copy that the host does not wait for."""
    if device.type == "cpu":
        return list(tensors)
    joined = torch.cat([tensor.flatten() for tensor in tensors])
    joined = joined.pin_memory() if device.type == "cuda" else joined
    parts = joined.to(device, non_blocking=True).split([tensor.numel() for tensor in tensors])
    return [part.view(tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]


def _additive(visible: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return what is added to attention scores: 0 where something is visible, the least number elsewhere."""
    return torch.zeros_like(visible, dtype=dtype).masked_fill(~visible, torch.finfo(dtype).min)


def last_node(paths: torch.Tensor, none: int) -> torch.Tensor:
    """Return the last node (..) of candidates whose nodes are (.., D), `none` where there is none."""
    count = (paths != none).sum(dim=-1, keepdim=True)
    return paths.gather(-1, (count - 1).clamp(min=0))[..., 0]
