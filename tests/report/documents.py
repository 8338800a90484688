"""A benchmark document with invented figures, as `autodraft bench --json` prints it."""

from __future__ import annotations

from typing import Any

KINDS = {
    "autoregressive": "baseline",
    "profile": "ours",
    "vertical+horizontal": "ours",
    "prompt-lookup": "published",
    "hf-generate": "published",
    "int8-autoregressive": "lossy",
}
SPEEDUPS = dict(zip(KINDS, (1.0, 2.5, 1.5, 1.75, 0.5, 1.25), strict=True))


def bench_row(method: str, task: str, speedup: float) -> dict[str, Any]:
    """What runs in our decoder says everything, the other methods only their speed."""
    ours = KINDS[method] in ("baseline", "ours") or method == "prompt-lookup"
    drafts = ours and method != "autoregressive"
    return {
        "method": method,
        "task": task,
        "num_prompts": 20,
        "tokens_per_s": 100 * speedup,
        "speedup": speedup,
        "ci_low": 0.9 * speedup,
        "ci_high": 1.1 * speedup,
        "ratio_of_means": speedup - 0.01,
        "tokens_per_cycle": 2.75 if ours else None,
        "histogram": {"1": 5, "4": 3, "6": 1, "20": 1} if ours else None,
        "num_draft_tokens": 4.0 if drafts else None,
        "alpha": 0.625 if drafts else None,
        "alpha_per_draft": [0.625] if drafts else None,
        "cost": 0.125 if drafts else None,
        "verify_cost": 1.0625 if ours else None,
        "shares": {"draft": 0.2, "verify": 0.7, "scheduling": 0.06, "rest": 0.04} if ours else None,
        "num_identical": None if KINDS[method] == "lossy" else 19,
        "prefill_ms": 12.0,
    }


def bench_document(tasks: tuple[str, ...] = ("edit", "prose")) -> dict[str, Any]:
    """Every kind of method on some tasks; speedups on task number i are i tenths below the overall ones."""
    names = (*tasks, "overall")
    rows = [
        bench_row(method, task, SPEEDUPS[method] * (1 if task == "overall" else 1 - names.index(task) / 20))
        for method in KINDS
        for task in names
    ]
    ratio = {"method": "prompt-lookup", "kind": "published", "ratio": 1.4, "ci_low": 1.25, "ci_high": 1.6}
    return {
        "model": "tiny",
        "device": {"kind": "cpu", "name": "a processor", "threads": 2, "backend": "torch", "versions": {}},
        "num_prompts": 20,
        "new_tokens_per_prompt": 64,
        "repeats": 1,
        "temperature": 0.0,
        "seed": 0,
        "rows": rows,
        "kinds": dict(KINDS),
        "settings": {"prompt-lookup": {"max_ngram": "3"}},
        "unavailable": {"chain": "the profile's own scheduler", "vertical": "one draft", "horizontal": "one draft"},
        "runner_up": {"ours": "profile", "next": ratio, "published": ratio, "ratios": [ratio]},
        "predicted_speedup": 2.25,
    }
