"""Faster versions of single operations; the reader of the core may skip this room."""
