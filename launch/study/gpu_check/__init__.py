"""Parts of the system tried and measured on one GPU, each in a process of its own."""
