"""Tools that a policy may call between its turns."""
