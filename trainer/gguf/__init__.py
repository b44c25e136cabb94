"""GGUF: conversion, quantization, vision projectors, building llama.cpp."""
