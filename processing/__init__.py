"""Text and image processing for ALBEF: importing this package makes AutoProcessor and AutoImageProcessor know it."""

from transformers import AutoImageProcessor, AutoProcessor, PreTrainedConfig

from .augmentation import RandomAugment, TrainingAugmentation, random_resized_crop
from .augmented_rows import AugmentedDataset, AugmentedStream
from .collators import RetrievalCollator, VQACollator
from .image_processing_albef import AlbefImageProcessor, ProcessingError, UnreadableImageError, open_image
from .processing_albef import AlbefProcessor, clean_caption, clean_question
from .tokenizer import build_tokenizer, load_tokenizer


class _RegistrationKey(PreTrainedConfig):
    """A placeholder for the configuration class that the Auto classes use as a key.

    They find a saved processor by the class name in its own file and never look at the key, so the model's package need
    not be imported.
    """

    model_type = "albef"


AutoImageProcessor.register(_RegistrationKey, image_processor_classes={"pil": AlbefImageProcessor}, exist_ok=True)
AutoProcessor.register(_RegistrationKey, AlbefProcessor, exist_ok=True)

__all__ = [
    "AlbefImageProcessor",
    "AlbefProcessor",
    "AugmentedDataset",
    "AugmentedStream",
    "ProcessingError",
    "RandomAugment",
    "RetrievalCollator",
    "TrainingAugmentation",
    "UnreadableImageError",
    "VQACollator",
    "build_tokenizer",
    "clean_caption",
    "clean_question",
    "load_tokenizer",
    "open_image",
    "random_resized_crop",
]
