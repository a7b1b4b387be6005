"""Few-shot datasets."""
