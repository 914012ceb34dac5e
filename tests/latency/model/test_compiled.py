from batchpilot.latency.model.compiled import kernel_sources_stamp

KERNEL = "from batchpilot.latency.model.compiled import kernel\n"


def test_a_change_in_any_module_with_kernels_changes_the_stamp_and_one_elsewhere_does_not(tmp_path):
    (tmp_path / "baselines").mkdir()
    (tmp_path / "core").mkdir()
    (tmp_path / "baselines" / "rollout.py").write_text(KERNEL)
    (tmp_path / "baselines" / "rule.py").write_text("A = 1\n")
    (tmp_path / "core" / "words.py").write_text("CODE = 1\n")
    before = kernel_sources_stamp(tmp_path)
    (tmp_path / "baselines" / "rule.py").write_text("A = 2\n")
    assert kernel_sources_stamp(tmp_path) == before
    (tmp_path / "baselines" / "rollout.py").write_text(KERNEL + "B = 1\n")
    changed = kernel_sources_stamp(tmp_path)
    assert changed != before
    (tmp_path / "core" / "words.py").write_text("CODE = 2\n")
    assert kernel_sources_stamp(tmp_path) != changed
