"""Files of torch.save and safetensors for tests/unit/test_checkpoint.c, and the other way: what our writer wrote, opened by PyTorch.

    python tests/reference/checkpoint_reference.py make           writes tests/fixtures/io (torch 2.6.0, safetensors 0.5)
    BMVP_TEST_KEEP=DIR build/test_checkpoint                      leaves the files our writer made in DIR
    python tests/reference/checkpoint_reference.py check DIR      opens them with torch.load(weights_only=True) and load_file

Values follow one formula, so the C test needs no second file: element i of tensor k is (37 i + 11 k) mod 101 - 50, plus 50 for
uint8, modulo 2 for bool, and divided by 8 for float32 and float64.
"""
import collections
import os
import sys
import zipfile

import numpy
import torch
from safetensors.torch import load_file, save_file

from networks_reference import uniformer_shapes

FOLDER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "fixtures", "io")
DTYPES = ["float32", "float64", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool"]


def values(k, shape, dtype="float32"):
    n = 1
    for d in shape:
        n *= d
    v = (37 * torch.arange(n) + 11 * k) % 101 - 50
    if dtype == "uint8":
        v = v + 50
    if dtype == "bool":
        v = v % 2
    if dtype in ("float32", "float64"):
        v = v.double() / 8
    return v.reshape(shape).to(getattr(torch, dtype))


def release():
    """Laid out like the release's checkpoint: data-parallel names, AdamW, a scheduler, numbers beside it."""
    base = values(1, (4, 6))
    sd = collections.OrderedDict()
    sd["module.plain"] = values(0, (2, 3))
    sd["module.base"] = base
    sd["module.transposed"] = base.t()                 # (6, 4), strides (1, 6), storage shared with base
    sd["module.rows"] = base[1:3]                      # contiguous, storage offset 6
    sd["module.column"] = base[:, 2:5:2]               # (4, 2), strides (6, 2), offset 2
    sd["module.expanded"] = base[0:1].expand(3, 6)     # stride 0
    sd["module.empty"] = torch.zeros(0, 3)
    sd["module.norm.num_batches_tracked"] = torch.tensor(12345678901)
    for k, d in enumerate(DTYPES):
        sd["module." + d] = values(10 + k, (3, 5), d)
    sd._metadata = collections.OrderedDict([("", {"version": 1})])
    params = [torch.nn.Parameter(values(30 + i, (3, i + 1))) for i in range(2)]
    opt = torch.optim.AdamW(params, lr=3e-4, weight_decay=1e-5)
    for i, p in enumerate(params):
        p.grad = values(40 + i, (3, i + 1))
    opt.step()
    sched = torch.optim.lr_scheduler.CosineAnnealingLR(opt, 10)
    step = torch.optim.lr_scheduler.MultiStepLR(opt, [3, 7])
    return {"state_dict": sd, "optimizer": opt.state_dict(), "scheduler": sched.state_dict(), "steps": step.state_dict(),
            "current_epoch": 7, "val_best": numpy.float64(0.8125), "loss": float("inf"), "note": "Größe", "big": 1 << 40,
            "done": False, "nothing": None, "parameter": torch.nn.Parameter(values(2, (2, 2))), "history": [0.5, 0.25],
            "pair": (values(3, (2,)), values(4, (3,)))}


def network(base):
    """A UniFormer of dims 8 for pre-training, its tensors views of one storage: a file holds that once."""
    cfg = {"dims": [8, 8, 8, 8], "depths": [1, 1, 1, 1], "chans": 1}
    sd = collections.OrderedDict()
    for name, shape in uniformer_shapes(cfg):
        n = int(numpy.prod(shape))
        tracked = name.endswith("num_batches_tracked")
        sd[name] = torch.tensor(3) if tracked else base[0 if "running" in name else 1][:n].view(shape)
    return sd


def wrapped(sd, prefix):
    return collections.OrderedDict((prefix + k, v) for k, v in sd.items())


def networks():
    """One network as three programs would write it: beside a teacher, in a dict within a dict, and without zip."""
    base = torch.stack((torch.full((4096,), 0.75), values(50, (4096,)) / 64)).half()
    sd = network(base)
    teacher = network(torch.zeros(2, 1).half().expand(2, 4096).contiguous())
    student = {"student": wrapped(sd, "module."), "teacher": wrapped(teacher, "module."), "epoch": 12}
    nested = {"epoch": 12, "model": {"state_dict": wrapped(sd, "_orig_mod."), "ema_decay": 0.999},
              "optimizer": {"state": {}, "param_groups": [{"lr": 1e-3, "params": []}]}}
    return {"student_teacher.pt": (student, True), "nested.pt": (nested, True), "nested_legacy.pt": (nested, False)}


class Evil:
    def __init__(self, what):
        self.what = what

    def __reduce__(self):
        return self.what


class Net(torch.nn.Module):
    def forward(self, x):
        return x + 1


def make():
    os.makedirs(FOLDER, exist_ok=True)
    path = lambda name: os.path.join(FOLDER, name)
    torch.save(release(), path("release.pt"))
    plain = collections.OrderedDict((d, values(k, (2, 3), d)) for k, d in enumerate(DTYPES))
    for protocol in (3, 4, 5):
        torch.save(plain, path("plain_p%d.pt" % protocol), pickle_protocol=protocol)
    torch.save(values(5, (2, 2)), path("tensor.pt"))
    torch.save(plain, path("legacy.pt"), _use_new_zipfile_serialization=False)
    torch.save(plain, path("legacy_p4.pt"), pickle_protocol=4, _use_new_zipfile_serialization=False)
    torch.save(release(), path("release_legacy.pt"), _use_new_zipfile_serialization=False)
    for name, (content, is_zip) in networks().items():
        torch.save(content, path(name), _use_new_zipfile_serialization=is_zip)
    torch.save({"a": Evil((os.system, ("echo hacked",)))}, path("evil_system.pt"))
    torch.save({"a": Evil((eval, ("1+1",)))}, path("evil_eval.pt"))
    torch.save({"a": torch.zeros(2, dtype=torch.complex64)}, path("complex.pt"))
    torch.jit.script(Net()).save(path("script.pt"))
    save_file(dict(plain), path("plain.safetensors"), metadata={"format": "pt"})
    print("fixtures in", FOLDER, sum(os.path.getsize(path(f)) for f in os.listdir(FOLDER)), "bytes")


def same(got, want, what):
    assert got.dtype == want.dtype and got.shape == want.shape and torch.equal(got, want), what


def check(folder):
    path = lambda name: os.path.join(folder, name)
    n = 0
    for name in ("all.pt", "zip64.pt"):
        assert zipfile.ZipFile(path(name)).testzip() is None
        for weights_only in (True, False):
            d = torch.load(path(name), weights_only=weights_only)
            assert list(d) == ["state_dict", "top", "optimizer", "current_epoch", "val_best", "note", "big", "worst", "flag",
                               "nothing"], list(d)
            assert isinstance(d["state_dict"], collections.OrderedDict)
            for k, t in enumerate(DTYPES):
                same(d["state_dict"]["module.enc." + t], values(k, (2, 3, 5), t), t)
            same(d["state_dict"]["module.count"], torch.tensor(42), "count")
            same(d["state_dict"]["module.empty"], torch.zeros(0, 4), "empty")
            same(d["top"], values(20, (7,)), "top")
            same(d["optimizer"]["state"][0]["exp_avg"], values(21, (3, 2)), "exp_avg")
            assert (d["current_epoch"], d["val_best"], d["note"], d["big"], d["flag"], d["nothing"]) == (
                7, 0.1, "Größe", 1 << 40, True, None)
            assert d["worst"] == float("-inf")
            n += 1
    p = torch.nn.Parameter(values(22, (3, 2)))
    opt = torch.optim.AdamW([p], lr=1.0)
    opt.load_state_dict(torch.load(path("all.pt"), weights_only=True)["optimizer"])
    assert opt.param_groups[0]["lr"] == 0.25 and torch.equal(opt.state[p]["exp_avg"], values(21, (3, 2)))
    p.grad = values(23, (3, 2))
    opt.step()
    mapped = torch.load(path("all.pt"), weights_only=True, mmap=True)
    same(mapped["top"], values(20, (7,)), "mapped")
    model = torch.nn.BatchNorm1d(4)
    model.load_state_dict(torch.load(path("norm.pt"), weights_only=True))
    same(model.running_var, values(2, (4,)), "running_var")
    d = load_file(path("all.safetensors"))
    for k, t in enumerate(DTYPES):
        same(d["state_dict.module.enc." + t], values(k, (2, 3, 5), t), t)
    same(d["state_dict.module.empty"], torch.zeros(0, 4), "empty")
    same(d["top"], values(20, (7,)), "top")
    same(load_file(path("misaligned.safetensors"))["b"], values(1, (3,)), "misaligned")
    print("PyTorch", torch.__version__, "opens all of our files:", n + 5, "checks")


if __name__ == "__main__":
    if len(sys.argv) == 2 and sys.argv[1] == "make":
        make()
    elif len(sys.argv) == 3 and sys.argv[1] == "check":
        check(sys.argv[2])
    else:
        sys.exit(__doc__)
