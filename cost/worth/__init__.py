"""What a prompt's draw is worth, and how long its responses will be."""
