"""Layers of a Gemma that train faster, and in less memory, on a CPU.

transformers' model as it is, and PEFT's adapter, of which the costly parts compute the same by other functions.
Gradients are written out, and tested against autograd's.
"""
