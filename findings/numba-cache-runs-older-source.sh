#!/usr/bin/env bash
# numba 0.68.1: with cache=True a process can run machine code of an older source, and say nothing.
#
# The index of a function's cache names a data file before that file is written, and names are counted from 1 again when the
# source has changed. While one process writes its code (megabytes for a large function), another finds the new index, whose
# stamp is that of the present source, and loads what stands under that name still: the code of the source before.
#
# Here one process compiles the changed function and waits, by a delay put in to make the moment certain, between index and
# data; the other imports the same changed file meanwhile and calls the function.
#
# Seen: the source says 2; the process that comes meanwhile gets 1, the one that comes later 2.
# Why it matters: workers that start together after an edit or an upgrade (test runners, process pools) may compute with older
# code; where the layout of records has changed in between, it reads and writes where the older one had its fields.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT; cd "$folder"
python3 -m venv v; v/bin/pip install --quiet numba==0.68.1 numpy==2.4.6 2>/dev/null
export NUMBA_CACHE_DIR="$folder/cache"
source_that_says() { printf 'from numba import njit\n\n\n@njit(cache=True)\ndef answer():\n    return %s  # %s\n' "$1" "$2" >function.py; }
cat >slow.py <<'PY'
import time

from numba.core.caching import IndexDataCacheFile

write = IndexDataCacheFile._save_data


def wait_and_write(self, name, data):
    print("index is there", flush=True)
    time.sleep(10)
    write(self, name, data)


IndexDataCacheFile._save_data = wait_and_write
from function import answer

answer()
PY
call='from function import answer; print(answer())'
{
    source_that_says 1 old
    echo "the source says 1: $(v/bin/python -c "$call")"
    source_that_says 2 changed
    v/bin/python slow.py >told & writer=$!
    until grep -qs "index is there" told; do sleep 0.1; done
    echo "the source says 2, meanwhile: $(v/bin/python -c "$call")"
    wait "$writer"
    echo "the source says 2, afterwards: $(v/bin/python -c "$call")"
} | tee seen.txt
diff seen.txt - <<'TXT'
the source says 1: 1
the source says 2, meanwhile: 1
the source says 2, afterwards: 2
TXT
