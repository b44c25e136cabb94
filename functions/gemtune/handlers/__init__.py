"""Entry points, which decode, call one service, and encode."""
