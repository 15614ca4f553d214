"""A trained folder and what others may have of it: its card, its neutral copy, the push, the merged export."""
