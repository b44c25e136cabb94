"""Layers of a Gemma for training on a CPU: transformers' model as it is, and PEFT's adapter, of which the costly parts
compute the same by functions that need less memory and so less time. Gradients are written out, and tested against
autograd's."""
