# Copyright 2026 The ALBEF for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Vision tower of ALBEF: pixels -> patch states.

A pre-norm vision transformer whose parameters keep the names of salesforce/ALBEF `models/vit.py` (fused `qkv`), so that
released weights map one to one. Shapes: B batch, P image tokens (class token, then the patches row by row), H width.
"""

from math import isqrt
from typing import Any

import torch
from torch import nn
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.conversion_mapping import register_checkpoint_conversion_mapping
from transformers.core_model_loading import ConversionOps, WeightConverter
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutput
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs
from transformers.utils.output_capturing import OutputRecorder, capture_outputs

from .attention_albef import AlbefAttentionModel, attention_name, eager_attention_forward
from .configuration_albef import AlbefError, AlbefVisionConfig, check_shapes


def interpolate_position_embeddings(
    position_embeddings: torch.Tensor, num_patches: int | tuple[int, int]
) -> torch.Tensor:
    """Resample the position embeddings of a square grid of patches to another grid.

    Bicubic, corners not aligned, no antialiasing; the class position is kept (salesforce/ALBEF `models/vit.py`).

    Args:
        position_embeddings: (1, 1 + old patches, H); the class position comes first.
        num_patches: Patches of the new grid, a square number; or its rows and columns.

    Returns:
        (1, 1 + num_patches, H); the argument itself where the grid does not change.
    """
    old_side = int((position_embeddings.shape[1] - 1) ** 0.5)
    new_grid = num_patches if isinstance(num_patches, tuple) else (int(num_patches**0.5),) * 2
    if (old_side, old_side) == new_grid:
        return position_embeddings
    class_position, grid = position_embeddings[:, :1], position_embeddings[:, 1:]
    grid = grid.unflatten(1, (old_side, old_side)).permute(0, 3, 1, 2)  # (1, H, side, side)
    grid = nn.functional.interpolate(grid.float(), size=new_grid, mode="bicubic", align_corners=False)
    grid = grid.permute(0, 2, 3, 1).flatten(1, 2).to(position_embeddings.dtype)  # (1, num_patches, H)
    return torch.cat([class_position, grid], dim=1)


class ResamplePositions(ConversionOps):
    """What the library does with position embeddings on loading: those of another grid become those of the model's."""

    def convert(
        self, input_dict: dict[str, Any], source_patterns: list[str], target_patterns: list[str], **kwargs: Any
    ) -> dict[str, Any]:
        """Resample one tensor (1, 1 + patches, H); what is no square grid is left for the library to refuse."""
        tensors = next(iter(input_dict.values()))
        stored = tensors[0] if isinstance(tensors, list) else tensors
        patches = kwargs["model"].get_parameter(kwargs["full_layer_name"]).shape[1] - 1
        if stored.dim() == 3 and isqrt(stored.shape[1] - 1) ** 2 == stored.shape[1] - 1:
            stored = interpolate_position_embeddings(stored, patches)
        return {target_patterns[0]: stored}

    @property
    def reverse_op(self) -> ConversionOps:
        """Return itself: what is saved is of the model's own grid, and stays as it is."""
        return self


class AlbefPatchEmbedding(nn.Module):
    """Cuts an image into patches and maps each to a vector."""

    def __init__(self, config: AlbefVisionConfig) -> None:
        super().__init__()
        self.proj = nn.Conv2d(config.num_channels, config.hidden_size, config.patch_size, stride=config.patch_size)

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return self.proj(pixel_values.to(self.proj.weight.dtype)).flatten(2).transpose(1, 2)  # (B, P - 1, H)


class AlbefVisionAttention(nn.Module):
    """Self-attention over the tokens of an image, with one fused linear map for queries, keys and values."""

    def __init__(self, config: AlbefVisionConfig) -> None:
        super().__init__()
        self.config = config
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.is_causal = False  # sdpa takes a module without this flag for causal
        self.qkv = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.proj = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(
        self, hidden_states: torch.Tensor, **kwargs: Unpack[TransformersKwargs]
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        qkv = self.qkv(hidden_states).unflatten(-1, (3, -1, self.head_dim))  # (B, P, 3, heads, d)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # each (B, heads, P, d)
        name = attention_name(self.config._attn_implementation, None, kwargs.get("output_attentions"))
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(name, eager_attention_forward)
        context, probabilities = attend(
            self,
            query,
            key,
            value,
            None,
            scaling=self.head_dim**-0.5,
            dropout=self.config.attention_dropout if self.training else 0.0,
            **kwargs,
        )
        return self.proj(context.flatten(2)), probabilities


class AlbefVisionMlp(nn.Module):
    """Feed-forward block."""

    def __init__(self, config: AlbefVisionConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.act = ACT2FN[config.hidden_act]
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.fc2(self.act(self.fc1(hidden_states)))


class AlbefVisionLayer(GradientCheckpointingLayer):
    """Pre-norm transformer layer."""

    def __init__(self, config: AlbefVisionConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.attn = AlbefVisionAttention(config)
        self.norm2 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = AlbefVisionMlp(config)

    def forward(self, hidden_states: torch.Tensor, **kwargs: Unpack[TransformersKwargs]) -> torch.Tensor:
        hidden_states = hidden_states + self.attn(self.norm1(hidden_states), **kwargs)[0]
        return hidden_states + self.mlp(self.norm2(hidden_states))


class AlbefVisionModel(AlbefAttentionModel):
    """The vision transformer: normalised image -> states of all its tokens, after a last layer norm."""

    config: AlbefVisionConfig
    base_model_prefix = "vision_model"
    main_input_name = "pixel_values"
    _input_embed_layer = "patch_embed"
    input_modalities = ["image"]
    _no_split_modules = ["AlbefVisionLayer"]
    _renamed_weights = {r"^albef\.vision_model\.": "vision_model."}  # of a model with a head
    _can_record_outputs = {
        "hidden_states": AlbefVisionLayer,
        "attentions": OutputRecorder(AlbefVisionAttention, index=1),
    }

    def __init__(self, config: AlbefVisionConfig) -> None:
        super().__init__(config)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.hidden_size))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + config.num_patches, config.hidden_size))
        self.patch_embed = AlbefPatchEmbedding(config)
        self.blocks = nn.ModuleList(AlbefVisionLayer(config) for _ in range(config.num_hidden_layers))
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        std = self.config.initializer_range
        if isinstance(module, nn.Linear):
            init.trunc_normal_(module.weight, std=std)
        elif module is self:
            init.trunc_normal_(self.cls_token, std=std)
            init.trunc_normal_(self.pos_embed, std=std)

    def resize_position_embeddings(self, image_size: int) -> None:
        """Make the model take images of another side.

        Args:
            image_size: New side, pixels; a multiple of the patch size.
        """
        resized = AlbefVisionConfig(**{**self.config.to_dict(), "image_size": image_size})  # checks the size
        with torch.no_grad():
            self.pos_embed = nn.Parameter(interpolate_position_embeddings(self.pos_embed, resized.num_patches))
        self.config.image_size = image_size

    def _positions(self, size: tuple[int, int], interpolate: bool) -> torch.Tensor:
        """Return the position embeddings (1, P, H) of images of a size (height, width), pixels."""
        side, patch_size = self.config.image_size, self.config.patch_size
        if interpolate:
            if size[0] % patch_size or size[1] % patch_size:
                raise AlbefError(
                    f"pixel_values show images of {size} pixels, but both sides must be multiples of the patch size "
                    f"({patch_size}): resize or crop them."
                )
            return interpolate_position_embeddings(self.pos_embed, (size[0] // patch_size, size[1] // patch_size))
        if size != (side, side):
            raise AlbefError(
                f"pixel_values show images of {size} pixels, but the model takes ({side}, {side}): give the image "
                f"processor size={side}, pass interpolate_pos_encoding=True, or load the model with image_size=..."
            )
        return self.pos_embed

    @capture_outputs(tie_last_hidden_states=False)
    def forward(
        self,
        pixel_values: torch.Tensor,
        interpolate_pos_encoding: bool = False,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutput:
        """Encode images.

        Args:
            pixel_values: (B, 3, S, S) normalised images; S is `config.image_size`.
            interpolate_pos_encoding: Whether images may have other sides, multiples of the patch size: the position
                embeddings are resampled for this call.
            kwargs: `output_hidden_states`, `output_attentions` (eager attention, to which sdpa changes for them),
                `return_dict`.

        Returns:
            `last_hidden_state` (B, P, H): the class token, then the patches row by row.

        Raises:
            ValueError: The images have another shape or size.
        """
        check_shapes({"C": self.config.num_channels}, pixel_values=(pixel_values, "BCST"))
        positions = self._positions((pixel_values.shape[2], pixel_values.shape[3]), interpolate_pos_encoding)
        patches = self.patch_embed(pixel_values)
        hidden_states = torch.cat([self.cls_token.expand(patches.shape[0], -1, -1), patches], dim=1) + positions
        for block in self.blocks:
            hidden_states = block(hidden_states, **kwargs)
        return BaseModelOutput(last_hidden_state=self.norm(hidden_states))


_POSITIONS = WeightConverter("pos_embed", "pos_embed", operations=[ResamplePositions()])
register_checkpoint_conversion_mapping(AlbefVisionModel.__name__, [_POSITIONS], overwrite=True)
