"""Twin of examples/07_method.c: one step of BrainMVP by hand, then 26 steps with PyTorch's gradients and AdamW.

    07_method.py START.pt     after `07_method START.pt`, which writes network, templates and masks

The network is UniFormer as tests/reference/networks_reference.py has it, under the names of the released code. Needs torch, numpy.
"""

import pathlib
import sys

import torch
import torch.nn.functional as F

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "tests/reference"))
from networks_reference import uniformer_decode, uniformer_encode

EDGE, CASES, STEPS = 32, 3, 25
VOXELS = EDGE**3
TINY = dict(dims=(16, 32, 64, 128), depths=(1, 1, 2, 1), head=16, chans=1)  # the preset uniformer_tiny


def phi(crop, filler, mask):
    """Algorithm 1: where the mask is 1 the filler shows instead of the crop."""
    return torch.where(mask > 0, filler, crop)


def rebuilding(rebuilt, first, crop):
    """(2), (3)"""
    return sum(F.mse_loss(rebuilt[first + i, 0], crop[i]) for i in range(CASES)) / CASES


def contrast(map, tau):
    """(4), (5): cross-entropy of cosines / tau, both ways"""
    g, f = F.normalize(map[:CASES].flatten(1)), F.normalize(map[CASES:].flatten(1))
    own = torch.arange(CASES)
    return (F.cross_entropy(f @ g.T / tau, own) + F.cross_entropy(g @ f.T / tau, own)) / 2


def by_hand(net, template, crop, other, mask):
    """Cross-modal, distillation, contrast"""
    view = [phi(crop[i], template, mask[i, 0]) for i in range(CASES)]
    view += [phi(crop[i], other[i], mask[i, 1]) for i in range(CASES)]
    maps = uniformer_encode(net, TINY, torch.stack(view)[:, None], True)
    rebuilt = uniformer_decode(net, TINY, maps[3])
    return rebuilding(rebuilt, CASES, crop), rebuilding(rebuilt, 0, crop), contrast(maps[3], 1.0)


start = torch.load(sys.argv[1], weights_only=True)
net = start["state_dict"]
template = net.pop("rep_template")[0].clone().requires_grad_()  # T of t1; that of t2 is in no view
for name, t in net.items():
    t.requires_grad_(not name.rsplit(".", 1)[-1].startswith(("running_", "num_")))
# volumes are (z, y, x) in the lesson and in its masks, (x, y, z) in the released code
k = torch.arange(VOXELS)
crop = [((k // (5 + i) % 8 + k // 1024 % 4) / 11).reshape(EDGE, EDGE, EDGE).permute(2, 1, 0) for i in range(CASES)]
other = [1 - x for x in crop]
mask = start["example"]["mask"].permute(0, 1, 4, 3, 2)

adam = torch.optim.AdamW([t for t in net.values() if t.requires_grad] + [template], lr=1e-3, weight_decay=1e-5)
for step in range(STEPS + 1):
    adam.zero_grad()
    loss = by_hand(net, template, crop, other, mask)
    sum(loss).backward()
    adam.step()
    if step == 0:
        first = template.detach().square().mean().sqrt()
        print(f"by hand cross-modal {loss[0]:.7f} distillation {loss[1]:.7f} contrast {loss[2]:.7f}")
        adam.param_groups[0]["lr"] = 1e-2
size = template.detach().square().mean().sqrt()
print(f"after step 1 {first:.3f} after step {STEPS + 1} {size:.3f} cross-modal {loss[0]:.3f}")
