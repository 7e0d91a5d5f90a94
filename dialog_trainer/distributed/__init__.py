"""Many processes, one result: who is in the group, what is summed over it, and how a failure of one ends all."""
