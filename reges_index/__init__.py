"""ReGeS Index."""
