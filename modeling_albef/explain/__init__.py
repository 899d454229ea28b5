"""Why a model matched or answered as it did: Grad-CAM and heat maps."""
