"""Rows as a training reads them: kinds of rows, tokens and labels, pairs, prompts, rewards, packing, prepared files."""
