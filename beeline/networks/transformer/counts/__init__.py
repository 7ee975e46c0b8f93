"""Other numbers of tokens: data of several sizes in one row, patches of several sizes."""
