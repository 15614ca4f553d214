"""Publish a trained folder: model card, copy without secrets, push, export."""
