"""One thread per test process: small kernels slow down several-fold with two."""

import torch

torch.set_num_threads(1)
