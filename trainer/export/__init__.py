"""What an export is made of: adapter and merged weights, tokenizer files, model card, usage, Modelfile."""
