"""The item set I (section 2.2): items, readers, encoder and the Chroma collection."""
