"""Console lines, progress, tables, figures and pages."""
