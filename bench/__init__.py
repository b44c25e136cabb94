"""Measurements of speed, memory and overhead, beside other projects."""
