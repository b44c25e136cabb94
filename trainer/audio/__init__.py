"""Audio of rows: decoding and resampling it, storing it, and its tokens."""
