"""One flow transformer made of slots: mixers, feeds, positions, modulation, wiring and plan."""
