"""The learner turns scored groups into new weights: objectives, packing, ZeRO."""
