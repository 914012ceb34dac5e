#!/usr/bin/env bash
# aiperf 0.13.0: with HF_HUB_OFFLINE=1 a tokenizer's folder on this machine is taken for a repository's name.
#
# Tokenizer.from_pretrained loads a folder, as --tokenizer does. With HF_HUB_OFFLINE=1, the setting of a machine without
# a network, the same path goes to the lookup of the hub's cache, which takes only names such as "namespace/name".
#
# Seen: the two lines that are compared below.
# Why it matters: where models lie in folders and the hub is switched off, `aiperf profile --tokenizer FOLDER` ends before
# its first request. Leaving the variable unset for aiperf alone loads the folder; nothing is fetched then either.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT; cd "$folder"
python3 -m venv v; v/bin/pip install --quiet aiperf==0.13.0 transformers==5.24.0 tokenizers==0.23.3 2>/dev/null
cat >see.py <<'PY'
import os

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from aiperf.common.tokenizer import Tokenizer as Loaded

words = Tokenizer(models.WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]"))
words.pre_tokenizer = pre_tokenizers.Whitespace()
PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]").save_pretrained("tokenizer")
setting = "HF_HUB_OFFLINE=1" if os.environ.get("HF_HUB_OFFLINE") else "without it"
try:
    found = f"{len(Loaded.from_pretrained(os.path.abspath('tokenizer')).encode('a a a'))} tokens"
except Exception as error:
    found = "refused as a repository's name" if "Repo id must" in str(error) else f"{error}"
print(f"{setting}: {found}")
PY
for offline in "" 1; do HF_HUB_OFFLINE=$offline v/bin/python see.py 2>/dev/null | tail -1; done | tee seen.txt
diff seen.txt - <<'TXT'
without it: 3 tokens
HF_HUB_OFFLINE=1: refused as a repository's name
TXT
