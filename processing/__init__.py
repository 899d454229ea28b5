"""Text and image processing for ALBEF: importing this package makes AutoProcessor and AutoImageProcessor know it."""

from transformers import AutoImageProcessor, AutoProcessor, PreTrainedConfig
from transformers.models.auto.image_processing_auto import DEFAULT_TO_PIL_BACKEND_IMAGE_PROCESSORS
from transformers.utils import is_torchvision_available

from .augmentation import RandomAugment, TrainingAugmentation, WholeImageAugmentation, random_resized_crop
from .augmented_rows import AugmentedDataset, AugmentedStream
from .collators import RetrievalCollator, VQACollator
from .grounding_collator import GroundingCollator
from .image_processing_albef import AlbefImageProcessor, ProcessingError, UnreadableImageError, open_image
from .image_processing_albef_torchvision import AlbefImageProcessorTorchvision
from .label_collator import ClassificationCollator
from .masked_words import PreTrainingCollator
from .processing_albef import AlbefProcessor, clean_caption, clean_question
from .tokenizer import build_tokenizer, load_tokenizer


class _RegistrationKey(PreTrainedConfig):
    """A placeholder for the configuration class that the Auto classes use as a key.

    They find a saved processor by the class name in its own file and never look at the key, so the model's package need
    not be imported.
    """

    model_type = "albef"


_backends: dict[str, type] = {"pil": AlbefImageProcessor}
if is_torchvision_available():
    _backends["torchvision"] = AlbefImageProcessorTorchvision
    DEFAULT_TO_PIL_BACKEND_IMAGE_PROCESSORS.append(AlbefImageProcessor.__name__)  # unless a backend is asked for
AutoImageProcessor.register(_RegistrationKey, image_processor_classes=_backends, exist_ok=True)
AutoProcessor.register(_RegistrationKey, AlbefProcessor, exist_ok=True)

__all__ = [
    "AlbefImageProcessor",
    "AlbefImageProcessorTorchvision",
    "AlbefProcessor",
    "AugmentedDataset",
    "AugmentedStream",
    "ClassificationCollator",
    "GroundingCollator",
    "PreTrainingCollator",
    "ProcessingError",
    "RandomAugment",
    "RetrievalCollator",
    "TrainingAugmentation",
    "UnreadableImageError",
    "VQACollator",
    "WholeImageAugmentation",
    "build_tokenizer",
    "clean_caption",
    "clean_question",
    "load_tokenizer",
    "open_image",
    "random_resized_crop",
]
