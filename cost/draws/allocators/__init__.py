"""Members of the plug `allocator`; the contract is in `cost.draws.allocators.types`."""
