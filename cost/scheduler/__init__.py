"""The scheduler: draws tickets, takes in reports, selects responses."""
