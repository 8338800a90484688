"""Random token trees for property tests."""

from hypothesis import strategies as st

from autodraft.decoding import TokenTree


@st.composite
def token_trees(draw: st.DrawFn, max_nodes: int = 12, vocab_size: int = 6) -> TokenTree:
    """Any valid tree, chains and lone roots included."""
    tokens, parents = [draw(st.integers(0, vocab_size - 1))], [-1]
    for _ in range(draw(st.integers(0, max_nodes - 1))):
        parent = draw(st.integers(0, len(tokens) - 1))
        taken = {tokens[node] for node in range(len(tokens)) if parents[node] == parent}
        free = [token for token in range(vocab_size) if token not in taken]
        if free:
            tokens.append(draw(st.sampled_from(free)))
            parents.append(parent)
    return TokenTree(tuple(tokens), tuple(parents))
