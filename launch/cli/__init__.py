"""What the command line may say, and how what it may not is answered."""
