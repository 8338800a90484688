"""What theory expects of a cascade: tokens per cycle, speedup, the best draft length.

Knows nothing of models, devices or clocks: plain arithmetic on alpha, cost c and verify cost v. Every figure
that comes from here is *predicted*. Chains: Leviathan, Kalman & Matias, arXiv 2211.17192, section 3; the
vertical cascade: Chen et al., CS-Drafting, arXiv 2312.11462, derived here for a verify cost that is not 1.
"""

from __future__ import annotations

from collections.abc import Callable


def tokens_per_cycle(alpha: float, num_draft_tokens: int) -> float:
    """Expected committed tokens of a chain, bonus included: 1 + alpha + ... + alpha^n (equation 1 of 2211.17192)."""
    _check_alpha(alpha)
    if num_draft_tokens < 0:
        raise ValueError(f"num_draft_tokens is {num_draft_tokens}; it cannot be negative")
    return float(sum(alpha**i for i in range(num_draft_tokens + 1)))


def speedup(tokens_per_cycle: float, num_draft_tokens: float, cost: float, verify_cost: float) -> float:
    """tau / (n * c + v): committed tokens of a cycle over its time, in target steps."""
    time = num_draft_tokens * cost + verify_cost
    if time <= 0:
        raise ValueError(f"a cycle takes time: n * c + v is {time}")
    return tokens_per_cycle / time


def chain_speedup(alpha: float, num_draft_tokens: int, cost: float, verify_cost: float = 1.0) -> float:
    """Expected speedup of a chain with independent acceptance (theorem 3.8 of 2211.17192 when v is 1)."""
    return speedup(tokens_per_cycle(alpha, num_draft_tokens), num_draft_tokens, cost, verify_cost)


def best_num_draft_tokens(
    tau: Callable[[int], float], cost: float, verify_cost: Callable[[int], float], longest: int = 16
) -> tuple[int, float]:
    """The draft length in 1..longest with the highest expected speedup, and that speedup.

    `tau(n)` gives the expected tokens per cycle and `verify_cost(rows)` the cost of a verify pass over rows
    tokens (n drafted ones and the root).
    """
    if longest < 1:
        raise ValueError("the longest draft has at least one token")
    scores = {n: speedup(tau(n), n, cost, verify_cost(n + 1)) for n in range(1, longest + 1)}
    best = max(scores, key=lambda n: (scores[n], -n))
    return best, scores[best]


def inner_generating_function(x: float, alpha: float, num_draft_tokens: int) -> float:
    """E[x^N] of the tokens N that one cycle with independent acceptance alpha commits (N is 1..n + 1).

    With P(N > i) = alpha^i for i <= n it is 1 + (x - 1) * sum over i of (alpha * x)^i.
    """
    _check_alpha(alpha)
    return 1.0 + (x - 1.0) * sum((alpha * x) ** i for i in range(num_draft_tokens + 1))


def vertical_tokens_per_cycle(alpha: float, inner_alpha: float, inner_cycles: int, inner_tokens: int) -> float:
    """Tokens per target cycle when the draft is itself sped up by an inner draft.

    The draft runs `inner_cycles` cycles, each verifying `inner_tokens` tokens of the inner draft, so that the
    drafted length is a sum of random numbers L; the target accepts each drafted token with probability alpha.
    E[1 + alpha + ... + alpha^L] = (1 - alpha * G(alpha)^cycles) / (1 - alpha), G as above.
    """
    _check_alpha(alpha)
    if 1.0 - alpha < 1e-8:  # the quotient below would be rounding errors over each other
        return 1.0 + inner_cycles * tokens_per_cycle(inner_alpha, inner_tokens)
    generating = inner_generating_function(alpha, inner_alpha, inner_tokens)
    return (1.0 - alpha * generating**inner_cycles) / (1.0 - alpha)


def vertical_speedup(
    alpha: float,
    inner_alpha: float,
    inner_cycles: int,
    inner_tokens: int,
    *,
    cost: float,
    inner_cost: float = 0.0,
    verify_cost: float = 1.0,
) -> float:
    """Expected speedup of a vertical cascade; `cost` is one pass of the draft over `inner_tokens` + 1 tokens."""
    tau = vertical_tokens_per_cycle(alpha, inner_alpha, inner_cycles, inner_tokens)
    return speedup(tau, inner_cycles, cost + inner_tokens * inner_cost, verify_cost)


def skip_only_bound(skip_ratio: float) -> float:
    """What skipping alone can never pass: with cost 1 - r, a draft of perfect acceptance tends to 1 / (1 - r)."""
    if not 0.0 <= skip_ratio < 1.0:
        raise ValueError(f"skip ratio {skip_ratio} is not in [0, 1)")
    return 1.0 / (1.0 - skip_ratio)


def _check_alpha(alpha: float) -> None:
    if not 0.0 <= alpha <= 1.0:
        raise ValueError(f"alpha is {alpha}; an acceptance is between 0 and 1")
