"""The typed configuration of one command: fields, ranges, validation, and the job that all processes share."""
