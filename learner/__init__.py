"""From scored groups to new weights: objectives, packing, ZeRO."""
