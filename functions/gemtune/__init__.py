"""gemtune: the shared package of the functions, the command line and the trainer. It never imports torch."""
