"""A policy file is read as what it is, or refused with a reason."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from policy_samples import make_description, make_metadata, make_network, make_policy_bytes, model_bytes

from batchpilot.core.features import FEATURE_NAMES
from batchpilot.tuners.policy import file, layout, read_policy
from batchpilot.tuners.policy.file import parse_policy
from batchpilot.tuners.policy.layout import Node
from batchpilot.tuners.policy.seal import seal

GOOD = make_policy_bytes(make_description(training={"seed": 7}), seed=1)
OBSERVATIONS = np.random.default_rng(5).random((32, len(FEATURE_NAMES))).astype(np.float32)
DECISIONS = [parse_policy(GOOD).network.decide(observation) for observation in OBSERVATIONS]
SIZES = make_description().table.sizes


def test_a_file_gives_back_network_and_description():
    policy = parse_policy(GOOD)
    expected = make_network(SIZES, seed=1)
    for name in ("weights", "biases"):
        for read, written in zip(getattr(policy.network, name), getattr(expected, name), strict=True):
            np.testing.assert_array_equal(read, written)
    np.testing.assert_array_equal(policy.network.std, expected.std)
    assert policy.network.activations == ("Tanh", "Relu")
    assert policy.description.track == "limits"
    assert policy.description.training == {"seed": 7}
    assert policy.description.table.describe() == make_description().table.describe()
    assert (policy.opset, policy.size_bytes) == (layout.OPSET, len(GOOD))


def test_a_policy_may_be_trained_on_windows_of_any_length():
    for interval_ms in (None, 250.0):
        policy = parse_policy(make_policy_bytes(make_description(decision_interval_ms=interval_ms)))
        assert policy.description.decision_interval_ms == interval_ms


def test_the_reason_names_the_file(tmp_path):
    path = tmp_path / "bad.onnx"
    path.write_bytes(b"hello")
    with pytest.raises(ValueError, match=r"bad\.onnx cannot be loaded as a policy: .*truncated"):
        read_policy(path)


def test_a_missing_file_and_a_folder_are_told(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_policy(tmp_path / "none.onnx")
    with pytest.raises(ValueError, match="not a regular file"):
        read_policy(tmp_path)


def test_a_huge_file_is_not_read_to_its_end(tmp_path, monkeypatch):
    monkeypatch.setattr(file, "MOST_BYTES", len(GOOD) - 1)
    path = tmp_path / "huge.onnx"
    path.write_bytes(GOOD)
    with pytest.raises(ValueError, match="larger than"):
        read_policy(path)


@given(st.integers(0, len(GOOD) - 1))
def test_a_truncated_file_is_refused(length):
    with pytest.raises(ValueError, match=r"truncated|checksum"):
        parse_policy(GOOD[:length])


@given(st.integers(0, len(GOOD) - 1), st.integers(1, 255))
def test_a_changed_byte_is_found(position, change):
    damaged = bytearray(GOOD)
    damaged[position] ^= change
    with pytest.raises(ValueError, match=r"truncated|checksum"):
        parse_policy(bytes(damaged))


BODY = GOOD[: -len(seal(b""))]


def outcome(data):
    """Decisions of a file that loads, None for one that is refused."""
    try:
        network = parse_policy(data).network
    except ValueError:
        return None
    return [network.decide(observation) for observation in OBSERVATIONS]


@given(st.lists(st.tuples(st.integers(0, len(BODY) - 1), st.integers(1, 255)), min_size=1, max_size=4))
def test_bytes_changed_and_sealed_again_give_actions_or_a_reason(changes):
    forged = bytearray(BODY)
    for position, change in changes:
        forged[position] ^= change
    decisions = outcome(seal(bytes(forged)))
    for actions in decisions or ():
        assert all(0 <= action < size for action, size in zip(actions, SIZES, strict=True))


@given(st.integers(0, len(BODY)), st.binary(max_size=40), st.integers(0, 40))
def test_bytes_put_in_or_taken_out_and_sealed_again_give_actions_or_a_reason(position, inserted, removed):
    forged = BODY[:position] + inserted + BODY[position + removed :]
    decisions = outcome(seal(forged))
    if forged == BODY:
        assert decisions == DECISIONS
    for actions in decisions or ():
        assert all(0 <= action < size for action, size in zip(actions, SIZES, strict=True))


@given(st.binary(max_size=200))
def test_any_sealed_bytes_are_refused(data):
    with pytest.raises(ValueError, match=r".+"):
        parse_policy(seal(data))


def sealed(metadata=None, **options):
    network = options.pop("network", None) or make_network(SIZES)
    return seal(model_bytes(network, metadata or make_metadata(), **options))


RENAMED = [*FEATURE_NAMES[:3], "warmth", *FEATURE_NAMES[4:]]
SWAPPED = [FEATURE_NAMES[1], FEATURE_NAMES[0], *FEATURE_NAMES[2:]]
TABLE = make_description().table.describe()


def table_with(number, **changes):
    grids = [dict(grid) for grid in TABLE["grids"]]
    grids[number] |= changes
    return {**TABLE, "grids": grids}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"track": None}, "lack track"),
        ({"training": None, "stack": None}, "lack stack, training"),
        ({"colour": "blue"}, "'colour', which schema 1 does not know"),
        ({"schema": "2"}, "schema is '2'; this version reads 1"),
        ({"track": "limit"}, "did you mean 'limits'"),
        ({"feature_version": 3}, "feature version is 3"),
        ({"feature_names": RENAMED}, f"feature 3 is 'warmth' in the policy and '{FEATURE_NAMES[3]}' here"),
        ({"feature_names": SWAPPED}, f"feature 0 is '{FEATURE_NAMES[1]}'"),
        ({"feature_names": list(FEATURE_NAMES[:-1])}, "35 given; 36"),
        ({"feature_names": 7}, "int given"),
        ({"stack": 0}, "stack is 0"),
        ({"stack": 2}, "reads 36 numbers; 2 windows of 36 features are 72"),
        ({"stack": "true"}, "stack is True"),
        ({"decision_interval_ms": 0}, "above 0"),
        ({"decision_interval_ms": "NaN"}, "NaN is no number"),
        ({"decision_interval_ms": "1e999"}, "finite"),
        ({"observation_low": [0.0]}, "one a feature, or none"),
        ({"observation_low": [1.0] * 36, "observation_high": [0.0] * 36}, "which is no range"),
        ({"training": "[]"}, "training is a list"),
        ({"training": "["}, "no JSON"),
        ({"training": "[" * 100_000}, "no JSON"),
        ({"action_table": []}, "must be a mapping"),
        ({"action_table": {**TABLE, "mode": "sideways"}}, "unknown action mode"),
        ({"action_table": {**TABLE, "moves": "[1e999]"}}, "action_table"),
        ({"action_table": {**TABLE, "moves": [-(2**70), 0]}}, "action_table"),
        ({"action_table": {**TABLE, "moves": [-4, 0, 4]}}, "chooses among"),
        ({"action_table": table_with(0, notches=[0.0, 1.0])}, "a notch of batch_size is outside"),
        ({"action_table": table_with(0, notches=[1.5, 2.0])}, "batch_size is no whole number"),
        ({"action_table": table_with(0, notches=[1.0, None])}, "batch_size cannot be off"),
        ({"action_table": table_with(1, notches=list(range(1, 2000)))}, "at most 512"),
        ({"action_table": table_with(0, notches=[1.0, 1e200])}, "a notch of batch_size is outside"),
        ({"action_table": {**TABLE, "base": {"batch_size": 10**30}}}, "batch_size of the base limits"),
        ({"action_table": table_with(0, notches=["a"])}, "action_table"),
        ({"action_table": {**TABLE, "base": {"batch_size": 0}}}, "batch_size is 0"),
    ],
)
def test_metadata_that_cannot_be_meant_are_refused(changes, reason):
    with pytest.raises(ValueError) as raised:  # noqa: PT011 (the reason is compared below)
        parse_policy(sealed(make_metadata(**changes)))
    assert reason in str(raised.value)


def test_an_entry_that_is_there_twice_is_refused():
    from policy_samples import field

    twice = field(14, field(1, "track") + field(2, "batch"))
    with pytest.raises(ValueError, match="'track' twice"):
        parse_policy(sealed(extra=twice))


NODES = layout.nodes(("Tanh", "Relu"), len(SIZES))


@pytest.mark.parametrize(
    ("nodes", "reason"),
    [
        ([*NODES, Node("Sin", ("logits",), ("more",))], "node 13 of the graph is Sin"),
        (NODES[:-1], "node 12 of the graph is nothing"),
        (
            [Node("Add", ("features", "mean"), ("centred",)), *NODES[1:]],
            r"node 0 of the graph is Add\(features, mean\)",
        ),
        ([NODES[0]] * 2000, "more than 1024 fields"),
        ([Node("Tanh", ("a",), ("b",))] * 20, "node 0"),
    ],
)
def test_a_graph_that_is_not_a_policys_is_refused(nodes, reason):
    with pytest.raises(ValueError, match=reason):
        parse_policy(sealed(nodes=nodes))


def test_parts_that_no_policy_has_are_refused():
    from policy_samples import field, number

    function, domain = field(25, b""), field(8, field(1, "evil.example") + number(2, 1))
    with pytest.raises(ValueError, match="field 25"):
        parse_policy(sealed(extra=function))
    with pytest.raises(ValueError, match=r"evil\.example"):
        parse_policy(sealed(extra=domain))
    with pytest.raises(ValueError, match="version 17"):
        parse_policy(sealed(opset=18))


def test_data_kept_outside_the_file_are_refused():
    from policy_samples import field, number

    location = field(13, field(1, "location") + field(2, "../../secret"))
    outside = field(7, field(5, number(1, 35) + number(2, 1) + field(8, "mean") + location + number(14, 1)))
    with pytest.raises(ValueError, match="field 13"):
        parse_policy(seal(outside + field(8, number(2, layout.OPSET))))


@pytest.mark.parametrize(
    ("tensors", "reason"),
    [
        ({"weight_1": np.full((8, 8), np.nan, np.float32)}, "not finite"),
        ({"bias_0": np.full(8, np.inf, np.float32)}, "not finite"),
        ({"std": np.zeros(len(FEATURE_NAMES), np.float32)}, "std holds a number that is not above 0"),
        ({"std": np.ones(3, np.float32)}, "mean and std have shapes"),
        ({"weight_1": np.zeros((8, 9), np.float32)}, "layer 1 has weights of shape"),
        ({"bias_1": np.zeros(9, np.float32)}, "layer 1"),
        ({"weight_0": np.zeros((2, 2, 2), np.float32)}, "which do not go together"),
        ({"sizes": np.array([5, 5, 6])}, "the limits have"),
        ({"sizes": np.array([5, 10])}, "sizes has shape"),
        ({"sizes": np.array([5, -5, 15])}, "the limits have"),
        ({"sizes": np.zeros(3, np.float32)}, "sizes are int64"),
        ({"highest": np.float32(np.nan)}, "clipped"),
        ({"highest": np.float32(3)}, "its negative"),
        ({"more": np.float32(3)}, "constants are"),
    ],
)
def test_constants_that_do_not_fit_are_refused(tensors, reason):
    with pytest.raises(ValueError, match=reason):
        parse_policy(sealed(tensors={name: np.asarray(array) for name, array in tensors.items()}))


def test_weights_that_overflow_still_choose_an_action():
    network = make_network(SIZES)
    network.weights[0][:] = 3e38
    network.weights[1][:] = 3e38
    policy = parse_policy(sealed(network=network))
    assert all(0 <= action < 5 for action in policy.network.decide(OBSERVATIONS[0]))


def test_a_network_of_the_wrong_depth_says_so():
    with pytest.raises(ValueError, match="at most 8"):
        make_network(SIZES, activations=("Tanh",) * 9)
    with pytest.raises(ValueError, match="allowed: Tanh, Relu"):
        make_network(SIZES, activations=("Sin",))
