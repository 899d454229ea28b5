"""Text and image processing for ALBEF: importing this package makes AutoProcessor and AutoImageProcessor know it."""

from transformers import AutoImageProcessor, AutoProcessor, PreTrainedConfig

from .augmentation import AugmentedDataset, RandomAugment, TrainingAugmentation, random_resized_crop
from .collators import ImageCollator, RetrievalCollator, VQACollator
from .image_processing_albef import AlbefImageProcessor, ProcessingError, UnreadableImageError, open_image
from .processing_albef import AlbefProcessor, build_tokenizer, clean_caption, clean_question, load_tokenizer
from .streaming import AugmentedStream


class _RegistrationKey(PreTrainedConfig):
    """Stands where the Auto classes want a configuration class.

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
    "ImageCollator",
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
