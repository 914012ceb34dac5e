#!/usr/bin/env bash
# numba 0.68.1: forceinline=True on one function marks all that it calls as always inlined, too, whatever those ask for by
# leaving it out; and whether it does depends on who happened to have a function compiled first.
#
# A function that is compiled on the way to a caller takes over the caller's flags where it has not set its own, forceinline
# among them. It keeps what it was compiled with, so the first caller decides for all others.
#
# Seen: a function without the option, called by one that has it, is "alwaysinline" when that caller is compiled first, and
# is not when it was called by itself before.
# Why it matters: one small helper of a simulator's inner loop that is to be inlined takes every rare path below it along.
# Here a scheduler became one function of 78,000 instructions, where 29,000 run as fast and compile in less than half the time.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT; cd "$folder"
python3 -m venv v; v/bin/pip install --quiet numba==0.68.1 numpy==2.4.6 2>/dev/null
cat >inherited.py <<'PY'
import sys

from numba import njit


@njit
def rare(a):
    return a // 3 if a % 2 else a * 7


@njit(forceinline=True)
def small(a):
    return rare(a) + 1


@njit
def outer(a):
    return small(a)


if sys.argv[1] == "alone":
    rare(4)
outer(4)
(compiled,) = rare.overloads.values()
code = compiled.library.get_function(compiled.fndesc.mangled_name)
print("always inlined" if b"alwaysinline" in b" ".join(code.attributes) else "inlined where LLVM likes")
PY
{
    echo "rare, compiled on the way to what is inlined: $(v/bin/python inherited.py caller)"
    echo "rare, called by itself before: $(v/bin/python inherited.py alone)"
} | tee seen
diff seen - <<'SEEN'
rare, compiled on the way to what is inlined: always inlined
rare, called by itself before: inlined where LLVM likes
SEEN
