"""A text dataset: capitals of countries, always in one form of sentence."""
