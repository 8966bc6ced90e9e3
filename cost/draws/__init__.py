"""Which prompts to draw: probabilities, weights, group sizes, random streams."""
