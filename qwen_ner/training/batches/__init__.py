"""From rows of token ids to batches, and how a model computes them."""
