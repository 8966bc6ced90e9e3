"""Members of the plug `advantage`; the contract is in `cost.advantages.types`."""
