"""Tests of `reges_index.training`."""
