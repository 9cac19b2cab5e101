"""Protocols, metrics, baselines, experiments and reports (section 3)."""
