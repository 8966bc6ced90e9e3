"""The theory of cost-aware sampling held against measurement: `python -m launch.theory`."""
