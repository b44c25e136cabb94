"""Answers of a trained model to the prompts of a person who tries it."""
