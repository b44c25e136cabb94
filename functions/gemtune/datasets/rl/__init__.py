"""Rows of reinforcement learning: pairs, labelled answers, questions."""
