#!/usr/bin/env python3
"""Runs lessons and their twins in PyTorch, and compares what both print.

    course_reference.py [BUILD [TWINS]]     build/ and examples/pytorch/ where no folder is given

Each line of a twin has to be in the lesson's output, in this order: the same words, where the lesson may have more at the line's
end (02: "wants a gradient reads 2") and between, and numbers within TOLERANCE of them, or one of the last digit behind the point.
A twin that reads sys.argv goes on from a file that its lesson writes: both get the same name. Needs torch, numpy.
"""

import pathlib
import re
import subprocess
import sys
import tempfile

TOLERANCE = 1e-4  # relative
NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?$")


def like(want, got):
    """The words of `want` stand in `got` in this order, numbers near; of 02's "(3,2)" the twin says nothing."""
    got = [g.rstrip(",;:") for g in got.split()]
    at = 0
    for word in (w.rstrip(",;:") for w in want.split()):
        while at < len(got) and not near(word, got[at]):
            if NUMBER.match(word) and NUMBER.match(got[at]):
                return False  # another number where one was to be
            at += 1
        if at == len(got):
            return False
        at += 1
    return True


def near(want, got):
    if NUMBER.match(want) and NUMBER.match(got):
        digits = len(want.partition(".")[2]) if "e" not in want else 0
        return abs(float(want) - float(got)) <= max(1.01 * 10**-digits if digits else 0, TOLERANCE * abs(float(want)))
    return want == got


def compare(lesson, twin):
    missing, at = [], 0
    for line in twin:
        k = next((k for k in range(at, len(lesson)) if like(line, lesson[k])), None)
        if k is None:
            missing.append(line)
        else:
            at = k + 1
    return missing


def main():
    build = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else "build").resolve()
    twins = sorted(pathlib.Path(sys.argv[2] if len(sys.argv) > 2 else "examples/pytorch").resolve().glob("[0-9]*.py"))
    bad = not twins
    for path in twins:
        start = ["start.pt"] if "sys.argv" in path.read_text() else []
        with tempfile.TemporaryDirectory() as folder:
            said = [
                subprocess.run(command + start, cwd=folder, check=True, capture_output=True, text=True).stdout.splitlines()
                for command in ([str(build / path.stem)], [sys.executable, str(path)])
            ]
        missing = compare(*said) if said[1] else ["nothing was printed"]
        print(f"{path.stem}: {len(said[1])} lines of the twin, {len(missing)} not in what the lesson prints")
        for line in missing:
            print(f"    not there: {line}")
        bad |= bool(missing)
    raise SystemExit(bad)


if __name__ == "__main__":
    main()
