"""What tokens cost and which of them to spend: scheduler, allocators, thinning, ledger."""
