"""What becomes of runs whose processes are killed or stopped at random moments."""
