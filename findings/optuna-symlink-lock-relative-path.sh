#!/usr/bin/env bash
# optuna 5.0.0: the lock of JournalFileSymlinkLock leads nowhere when the journal's path is relative.
#
# The lock is a symbolic link beside the journal whose target is the journal's path as it was given. A relative path that
# holds a folder is resolved from the folder of the link, so the link dangles; the age of a lock that was left behind,
# which decides whether the next process may take it over, then cannot be read from it.
#
# Seen: "absolute path: the lock leads to the journal", "relative path: the lock leads nowhere".
# Why it matters: studies are kept in relative folders. After one kill in ten of a tuning run the lock stayed behind and
# was never taken over, whatever the grace period. An absolute path, or a lock that ends with its process, has no such state.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT; cd "$folder"
python3 -m venv v; v/bin/pip install --quiet optuna==5.0.0 2>/dev/null
mkdir study; touch study/study.journal
cat >see.py <<'PY'
import os, sys, warnings
from optuna.storages.journal import JournalFileSymlinkLock

warnings.simplefilter("ignore")
for name, path in (("absolute path", os.path.abspath("study/study.journal")), ("relative path", "study/study.journal")):
    lock = JournalFileSymlinkLock(path)
    lock.acquire()
    link = path + ".lock"
    assert os.path.islink(link)
    print(f"{name}: the lock leads {'to the journal' if os.path.exists(link) else 'nowhere'}")
    lock.release()
PY
v/bin/python see.py | tee seen.txt
diff seen.txt - <<'TXT'
absolute path: the lock leads to the journal
relative path: the lock leads nowhere
TXT
