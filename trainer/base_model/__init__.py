"""The base model: where its weights are, downloading them, their precision, and the parts of a model."""
