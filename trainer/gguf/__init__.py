"""GGUF files: conversion, quantization, the projector of vision models, and the build of llama.cpp that writes them."""
