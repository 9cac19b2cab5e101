"""Training of both experts (sections 2.3, 2.4, 3.3)."""
