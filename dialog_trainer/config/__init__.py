"""Typed configuration: schema, cross-field validation, job."""
