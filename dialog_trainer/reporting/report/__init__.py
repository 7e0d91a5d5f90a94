"""Reports on runs: statistics over seeds, collected runs, figures, and pages."""
