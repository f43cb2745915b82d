"""Twin of examples/02_tape.c: the same graph, whose tape PyTorch keeps (grad_fn), and dloss/dw. Needs torch."""

import torch
import torch.nn.functional as F

x = torch.tensor([[1, 2, 3, 4], [-1, 0, 1, 2], [3, -2, 1, 0]], dtype=torch.float32)
w = torch.tensor([[0.1, -0.2], [0.3, 0.4], [-0.5, 0.6], [0.7, -0.8]], requires_grad=True)
tape = [x, w]
tape.append(tape[0] @ tape[1])  # bmvp_linear keeps weights as (in, out); F.linear takes (out, in)
tape.append(F.gelu(tape[2]))
tape.append(tape[3] * tape[3])
tape.append(tape[4].mean())
name = ["leaf", "leaf", "linear", "gelu", "mul", "mean"]
for t in tape[2:]:
    t.retain_grad()  # PyTorch throws the gradients of what is no leaf away, as the library does
tape[5].backward()
for i, t in enumerate(tape):
    print(f"{i} {name[i]} first value {t.detach().flatten()[0]:.4f}")
for i in (5, 4, 3, 2):
    print(f"{i} {name[i]} gradient {tape[i].grad.flatten()[0]:.4f}")
for i, g in enumerate(w.grad.flatten()):
    print(f"w[{i}] {g:.4f}")
