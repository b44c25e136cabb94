"""Faster, leaner layers for training a Gemma with LoRA on a CPU.

The model stays transformers' own, with PEFT's adapters. The forwards of its costly parts (norms, gated units,
attention, adapted linear layers) are replaced by functions that compute the same values. Each comes with a backward
written by hand, which the tests compare with autograd through the plain formula.
"""
