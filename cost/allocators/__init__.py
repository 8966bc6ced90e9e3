"""Members of the plug `allocator`; the contract is in `cost.allocators.types`."""
