"""What tokens cost, in tokens, FLOPs or seconds."""
