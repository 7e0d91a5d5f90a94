"""Several processes, one result: ranks and rendezvous, collectives, DDP and FSDP, and how a failure ends all ranks."""
