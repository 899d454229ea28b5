"""The page that a run writes, and the images in its log."""
