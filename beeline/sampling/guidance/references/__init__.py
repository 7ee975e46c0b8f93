"""References: where the weak prediction of guidance comes from."""
