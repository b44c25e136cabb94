"""Exports: adapter, merged weights, tokenizer files, model card, Modelfile."""
