"""Where code runs that nobody trusts; see `rollout.sandbox.run`."""
