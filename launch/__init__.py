"""Every module here is a program; every folder is a room that programs call."""
