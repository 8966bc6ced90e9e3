"""Instruments that look at many runs, or at none: comparisons, simulation, theory, benches."""
