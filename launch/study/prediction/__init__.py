"""What is known of prompts before and after a few visits, and what draws gain by it."""
