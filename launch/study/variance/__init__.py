"""What every thinning rule adds to the variance: `python -m launch.variance`."""
