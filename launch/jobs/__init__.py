"""A training run as a job: what is packed, in which form, and how it is sent and followed."""
