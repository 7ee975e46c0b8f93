"""Controllers, which lead a run towards samples with a low energy."""
