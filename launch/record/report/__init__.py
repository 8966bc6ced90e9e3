"""Run folders as one interactive HTML page: `python -m launch.report RUN...`."""
