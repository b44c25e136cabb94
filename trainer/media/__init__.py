"""Media of rows, pictures or audio: finding and storing them, their tokens."""
