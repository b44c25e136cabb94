"""The model while it trains: how it is loaded and wrapped, its loss head, attention, and what its backward keeps."""
