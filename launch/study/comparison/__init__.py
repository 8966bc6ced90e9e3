"""Arms times seeds from one start to one budget, and what they show."""
