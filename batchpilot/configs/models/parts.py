"""The parts of a decoder layer: how many weights each has, how many a token passes, and what it caches."""

from __future__ import annotations

from dataclasses import dataclass

from batchpilot.configs.models.fields import Fields
from batchpilot.configs.models.spec import KvLayers


@dataclass(frozen=True, slots=True)
class Part:
    """One module of a layer.

    Attributes:
        module: its name in checkpoints, by which files say what is quantised.
        weights: in its matrices.
        small: biases, norms and routers, which stay at 16 bits.
        active: of the weights, those a token passes.
        cache: what it keeps of a token, by kind.
        state_values: numbers it keeps of a request, whatever its length.
        width: of a feed-forward, how wide it is for one token.
    """

    module: str
    weights: int
    small: int = 0
    active: int | None = None
    cache: tuple[KvLayers, ...] = ()
    state_values: int = 0
    width: int = 0


def grouped_attention(
    heads: int,
    kv_heads: int,
    head_dim: int,
    hidden: int,
    *,
    value_dim: int | None = None,
    window: int | None = None,
    bias: bool = False,
    gated: bool = False,
    keys_are_values: bool = False,
    cached: bool = True,
) -> Part:
    """Attention with a key and a value for each of its KV heads.

    Args:
        heads: query heads.
        kv_heads: key and value heads.
        head_dim: numbers in a query or key.
        hidden: width of the residual stream.
        value_dim: numbers in a value; None for those of a key.
        window: tokens that are kept; None for all.
        bias: of queries, keys, values and output.
        gated: a gate as wide as the queries.
        keys_are_values: one matrix makes both.
        cached: False where it uses the cache of another layer and has no keys and values of its own.
    """
    value_dim = head_dim if value_dim is None else value_dim
    queries, keys, values = heads * head_dim, kv_heads * head_dim, kv_heads * value_dim
    made = (0 if keys_are_values else values) + keys if cached else 0
    weights = hidden * (queries * (2 if gated else 1) + made + heads * value_dim)
    small = (queries + made + hidden if bias else 0) + 2 * head_dim
    kept = (KvLayers(1, keys + values, kv_heads, window),) if cached else ()
    return Part("self_attn", weights, small, cache=kept)


def latent_attention(fields: Fields, heads: int, hidden: int) -> Part:
    """Multi-head latent attention: one compressed vector a token, for all heads.

    Args:
        fields: of the configuration.
        heads: query heads.
        hidden: width of the residual stream.
    """
    rank, rotary = fields.count("kv_lora_rank"), fields.count("qk_rope_head_dim")
    plain, value = fields.count("qk_nope_head_dim", default=128), fields.count("v_head_dim", default=128)
    query_rank = fields.count("q_lora_rank", default=0, lowest=0)
    queries = heads * (plain + rotary)
    made = query_rank * (hidden + queries) if query_rank else hidden * queries
    weights = made + hidden * (rank + rotary) + rank * heads * (plain + value) + heads * value * hidden
    cached = rank + rotary
    index_dim = fields.count("index_head_dim", default=0, lowest=0)
    if index_dim:
        index_heads = fields.count("index_n_heads")
        weights += (query_rank or hidden) * index_heads * index_dim + hidden * (index_dim + index_heads)
        cached += index_dim
    return Part("self_attn", weights, query_rank + rank, cache=(KvLayers(1, cached),))


def compressed_attention(fields: Fields, heads: int, head_dim: int, hidden: int, ratio: int) -> Part:
    """Attention to a window of tokens and to summaries of so many tokens each, one vector for all heads.

    Args:
        fields: of the configuration.
        heads: query heads.
        head_dim: numbers in a query.
        hidden: width of the residual stream.
        ratio: tokens that one summary stands for; 0 for the window alone.
    """
    query_rank, output_rank = fields.count("q_lora_rank"), fields.count("o_lora_rank")
    groups, width = fields.count("o_groups", default=1), heads * head_dim
    weights = query_rank * (hidden + width) + hidden * head_dim + output_rank * (width + groups * hidden)
    cache = [KvLayers(1, head_dim, window=fields.count("sliding_window", default=128))]
    if ratio:
        weights += 2 * hidden * head_dim
        cache.append(KvLayers(1, max(1, head_dim // ratio)))
    return Part("self_attn", weights, query_rank + head_dim, cache=tuple(cache))


def linear_attention(heads: int, head_dim: int, hidden: int) -> Part:
    """Linear attention with one decay a head, as MiniMax-Text has it.

    Args:
        heads: query heads, and key and value heads.
        head_dim: numbers in a query.
        hidden: width of the residual stream.
    """
    width = heads * head_dim
    return Part("self_attn", 5 * hidden * width, width, state_values=heads * head_dim**2)


def gated_delta(fields: Fields, hidden: int) -> Part:
    """Linear attention by the gated delta rule.

    Args:
        fields: of the configuration.
        hidden: width of the residual stream.
    """
    key_heads, value_heads = fields.count("linear_num_key_heads"), fields.count("linear_num_value_heads")
    key_dim, value_dim = fields.count("linear_key_head_dim"), fields.count("linear_value_head_dim")
    keys, values = key_heads * key_dim, value_heads * value_dim
    kernel = fields.count("linear_conv_kernel_dim", default=4)
    weights = hidden * (2 * keys + 2 * values + 2 * value_heads) + values * hidden
    small = (2 * keys + values) * kernel + 2 * value_heads + value_dim
    state = value_heads * key_dim * value_dim + (2 * keys + values) * (kernel - 1)
    return Part("linear_attn", weights, small, state_values=state)


def delta_attention(linear: Fields, hidden: int) -> Part:
    """Linear attention with a decay for each channel, as Kimi's linear models have it.

    Args:
        linear: its part of the configuration.
        hidden: width of the residual stream.
    """
    heads, head_dim = linear.count("num_heads"), linear.count("head_dim")
    kernel, width = linear.count("short_conv_kernel_size", default=4), heads * head_dim
    weights = 4 * hidden * width + 2 * (hidden + width) * head_dim + hidden * heads
    state = heads * head_dim**2 + 3 * width * (kernel - 1)
    return Part("self_attn", weights, 3 * width * kernel + width + heads + head_dim, state_values=state)


def state_space(fields: Fields, hidden: int) -> Part:
    """A Mamba layer, of the second kind where its heads are told, else of the first.

    Args:
        fields: of the configuration.
        hidden: width of the residual stream.
    """
    state = fields.count("ssm_state_size", "mamba_d_state", "state_size")
    kernel = fields.count("conv_kernel", "mamba_d_conv", default=4)
    expand = fields.count("mamba_expand", "expand", default=2)
    heads = fields.count("mamba_num_heads", "mamba_n_heads", default=0, lowest=0)
    if not heads:
        width = expand * hidden
        rank = fields.value("mamba_dt_rank", "time_step_rank")
        rank = rank if isinstance(rank, int) and rank > 0 else -(-hidden // 16)
        weights = 3 * hidden * width + width * (rank + 2 * state) + rank * width
        small = width * (kernel + 1) + width * state + 2 * width
        return Part("mamba", weights, small, state_values=width * (state + kernel - 1))
    given = fields.value("mamba_head_dim", "mamba_d_head")
    head_dim = given if isinstance(given, int) and given > 0 else expand * hidden // heads
    width, groups = heads * head_dim, fields.count("n_groups", "mamba_n_groups", default=1)
    mixed = width + 2 * groups * state
    weights = hidden * (width + mixed + heads) + width * hidden
    kept = width * state + mixed * (kernel - 1)
    return Part("mixer", weights, mixed * (kernel + 1) + 3 * heads + width, state_values=kept)


def short_convolution(fields: Fields, hidden: int) -> Part:
    """A gated short convolution, as LFM2 has it.

    Args:
        fields: of the configuration.
        hidden: width of the residual stream.
    """
    kernel = fields.count("conv_L_cache", default=3)
    return Part("conv", 4 * hidden * hidden, kernel * hidden, state_values=(kernel - 1) * hidden)


def dense(hidden: int, width: int, *, gated: bool = True, bias: bool = False) -> Part:
    """A feed-forward layer.

    Args:
        hidden: width of the residual stream.
        width: its own.
        gated: a gate beside the first matrix.
        bias: of its matrices.
    """
    matrices = 3 if gated else 2
    return Part("mlp", matrices * hidden * width, matrices * width + hidden if bias else 0, width=width)


def experts(
    hidden: int, width: int, count: int, used: int, *, gated: bool = True, bias: bool = False, routed: int | None = None
) -> Part:
    """A router and its experts.

    Args:
        hidden: width of the residual stream.
        width: of an expert.
        count: experts.
        used: of these a token passes so many.
        gated: a gate beside the first matrix.
        bias: of matrices and router.
        routed: width that experts read and write, where it is not that of the residual stream.
    """
    one = (3 if gated else 2) * (routed or hidden) * width
    small = hidden * count + (count * (2 * width + hidden + 1) if bias else count)
    if routed:
        small += 2 * hidden * routed
    return Part("mlp.experts", one * count, small, active=one * used, width=used * width)
