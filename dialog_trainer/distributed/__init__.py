"""Many processes, one result: who is in the group, what is summed over it, and how a fault of one ends all."""
