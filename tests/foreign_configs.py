"""Configuration files of other implementations: their keys and values, written by us."""

from __future__ import annotations

from typing import Any

SCHEDULAR = {"sched": "cosine", "min_lr": 1e-6, "decay_rate": 1, "cooldown_epochs": 0}
SALESFORCE_BOTH: dict[str, Any] = {
    "bert_config": "configs/config_bert.json",
    **{"image_res": 384, "batch_size_train": 32, "alpha": 0.4, "distill": True, "warm_up": True},
}


def salesforce_retrieval(name: str = "coco", epochs: int = 5, k_test: int = 256) -> dict[str, Any]:
    """`Retrieval_coco.yaml`; `Retrieval_flickr.yaml` with "flickr30k", 10 epochs and 128."""
    return {
        "train_file": [f"data/{name}_train.json"],
        **{"val_file": f"data/{name}_val.json", "test_file": f"data/{name}_test.json", "image_root": "images/"},
        **SALESFORCE_BOTH,
        **{"batch_size_test": 64, "queue_size": 65536, "momentum": 0.995, "vision_width": 768, "embed_dim": 256},
        **{"temp": 0.07, "k_test": k_test, "optimizer": {"opt": "adamW", "lr": 1e-5, "weight_decay": 0.02}},
        "schedular": {**SCHEDULAR, "lr": 1e-5, "epochs": epochs, "warmup_lr": 1e-5, "warmup_epochs": 1},
    }


def salesforce_vqa() -> dict[str, Any]:
    """`VQA.yaml`."""
    return {
        "train_file": ["data/vqa_train.json", "data/vqa_val.json", "data/vg_qa.json"],
        **{"test_file": ["data/vqa_test.json"], "answer_list": "data/answer_list.json"},
        **{"vqa_root": "mscoco/", "vg_root": "visual-genome/", **SALESFORCE_BOTH},
        **{"batch_size_test": 16, "k_test": 128, "eos": "[SEP]"},
        "optimizer": {"opt": "adamW", "lr": 2e-5, "weight_decay": 0.02},
        "schedular": {**SCHEDULAR, "lr": 2e-5, "epochs": 8, "warmup_lr": 1e-5, "warmup_epochs": 4},
    }


WIDTH, VOCABULARY = {"hidden_size": 768}, {"vocab_size": 30522, "pad_token_id": 0}
POSITIONS = {"type_vocab_size": 2, "max_position_embeddings": 512}
LAYERS = {"num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 3072, "layer_norm_eps": 1e-12}
ENCODERS: dict[str, Any] = {
    **WIDTH,
    **VOCABULARY,
    **POSITIONS,
    "vision_encoder_args": {
        **WIDTH,
        **{"image_size": 384, "patch_size": 16, "num_hidden_layers": 12, "num_attention_heads": 12, "mlp_dim": 3072},
        **{"dropout": 0.0, "attention_dropout": 0.0, "layer_norm_eps": 1e-6},
    },
    "text_encoder_args": {**WIDTH, **VOCABULARY, **POSITIONS, **LAYERS},
    "multimodal_encoder_args": {**WIDTH, **LAYERS},
}


def torchmultimodal_retrieval() -> dict[str, Any]:
    """TorchMultimodal's `retrieval.yaml`."""
    return {
        **ENCODERS,
        **{"embed_size": 256, "k_test": 256, "checkpoint_root": "./examples/albef/checkpoints"},
        **{"pretrained_checkpoint": "pretrained.pth", "output_path": "./examples/albef/outputs/retrieval_output.pth"},
        "datamodule_args": {
            **{"train_files": ["coco_train.json"], "test_files": ["coco_test.json"], "image_root": "coco"},
            **{"batch_size": 32, "num_workers": 8},
        },
        "projection_args": {"in_features": 768, "out_features": 256},
        "similarity_args": {"embed_size": 256, "queue_size": 65536, "temp": 0.07},
        "training_args": {
            **{"alpha": 0.4, "weight_decay": 0.02, "lr": 1e-5, "min_lr": 1e-6, "max_epochs": 5},
            **{"step_size": 100, "warmup_steps": 1},
        },
    }


def torchmultimodal_vqa() -> dict[str, Any]:
    """TorchMultimodal's `vqa.yaml`."""
    return {
        **ENCODERS,
        **{"seed": 42, "world_size": 1, "device": "cuda", "dist_url": "env://", "output_root": "outputs"},
        "datamodule_args": {
            "train_files": ["vqa_train.json", "vg_qa.json", "vqa_val.json"],
            **{"test_files": ["vqa_test.json"], "answer_list": "answer_list.json", "vqa_root": "coco"},
            **{"vg_root": "visual_genome", "batch_size": 32, "num_workers": 8},
        },
        "text_embeddings_args": {**WIDTH, **VOCABULARY, **POSITIONS, "layer_norm_eps": 1e-12},
        "prediction_head_args": {**WIDTH, "vocab_size": 30522, "layer_norm_eps": 1e-12},
        "training_args": {
            **{"log_every_n_steps": 100, "alpha": 0.4, "weight_decay": 0.02, "lr": 2e-5, "min_lr": 1e-6},
            **{"max_epochs": 8, "step_size": 100, "warmup_steps": 4, "checkpoint_root": "checkpoints"},
        },
        "eval_args": {"log_every_n_steps": 100, "k_test": 128},
    }
