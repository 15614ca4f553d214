"""Texts to entities with a trained model."""
