"""Which finished responses to train on."""
