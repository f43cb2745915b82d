"""Twin of examples/05_attention.c: the matrix, and F.scaled_dot_product_attention without it. Needs torch, numpy."""

import numpy as np
import torch
import torch.nn.functional as F

T, HEADS, SIZE = 64, 2, 8
C = HEADS * SIZE


def fill(n, salt):
    return ((np.arange(n, dtype=np.int64) * 7919 + salt * 104729) % 2003).astype(np.float32) / np.float32(1001.5) - 1


qkv = torch.from_numpy(fill(T * 3 * C, 3).reshape(T, 3, HEADS, SIZE))
q, k, v = qkv.permute(1, 2, 0, 3)  # (heads, tokens, size) each
p = (q @ k.transpose(1, 2) / SIZE**0.5).softmax(-1)
matrix = (p @ v).transpose(0, 1).reshape(T, C)
op = F.scaled_dot_product_attention(q[None], k[None], v[None])[0].transpose(0, 1).reshape(T, C)
print(f"row of token 0, head 0: sum {p[0, 0].sum():.5f}, largest {p[0, 0].max():.5f}")
print(f"the op and the matrix, largest difference {(op - matrix).abs().max():.5f}")
print(f"out[0] {op[0, 0]:.5f} out[last] {op[-1, -1]:.5f} sum of squares {op.double().pow(2).sum():.4f}")
