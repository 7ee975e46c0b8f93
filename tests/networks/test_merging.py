"""Merged attention: exact for equal tokens, and attention with the tokens of a group weighted by their number."""

import pytest
import torch
import torch.nn.functional as F

import beeline as bl
from beeline.core.declared import TokenGrid
from beeline.core.errors import BeelineError
from beeline.networks.merging import Groups, MergedAttention, grouped, merge, merged_attention, unmerge

B, H, N, D = 3, 2, 12, 4


def normal(*shape, seed=0):
    return bl.Rng(seed).normal(torch.empty(*shape, dtype=torch.float64))


def repeated(seed):
    """Tokens [B,H,N,D] of which every one occurs four times, in another order for every sample."""
    index = torch.stack([bl.Rng(seed).fork(b).permutation(N) % 3 for b in range(B)])
    return normal(B, H, 3, D, seed=seed).gather(2, index[:, None, :, None].expand(-1, H, -1, D)), index


def groups_of(index):
    return Groups(index, torch.full((B, 3), N // 3))


def test_equal_tokens_are_merged_and_restored_exactly():
    x, index = repeated(1)
    assert torch.equal(unmerge(merge(x, groups_of(index)), groups_of(index)), x)
    y = normal(B, H, N, D)
    means = merge(y, groups_of(index))
    for b in range(B):
        for m in range(3):
            assert torch.allclose(means[b, :, m], y[b][:, index[b] == m].mean(1))


@pytest.mark.parametrize("first, others", [(0, 0), (5, 0), (0, 5)])
def test_attention_over_equal_tokens_is_the_full_one(first, others):
    _, index = repeated(1)
    q, k, v = (normal(B, H, 3, D, seed=s).gather(2, index[:, None, :, None].expand(-1, H, -1, D)) for s in (2, 3, 4))

    def around(x, seed):
        before, after = normal(B, H, 5, D, seed=seed), normal(B, H, 5, D, seed=seed + 9)
        return torch.cat([before[:, :, :first], x, after[:, :, :others]], 2)

    q, k, v = (around(x, s) for x, s in ((q, 5), (k, 6), (v, 7)))
    found = merged_attention(q, k, v, groups_of(index), first)
    assert (found - F.scaled_dot_product_attention(q, k, v)).abs().max() < 1e-12


def test_attention_over_any_tokens_is_that_of_repeated_means():
    q, k, v = (normal(B, H, N + 2, D, seed=s) for s in range(3))
    groups = grouped(normal(B, N, 3, seed=8), normal(B, N, seed=9), 4, 6)
    means = [torch.cat([unmerge(merge(x[:, :, :N], groups), groups), x[:, :, N:]], 2) for x in (q, k, v)]
    wanted = F.scaled_dot_product_attention(*means)
    assert (merged_attention(q, k, v, groups, 0) - wanted).abs().max() < 1e-12
    with MergedAttention(groups, TokenGrid(3, 4)):
        assert (F.scaled_dot_product_attention(q, k, value=v) - wanted).abs().max() < 1e-12
        short = [x[:, :, :5] for x in (q, k, v)]
        assert torch.equal(F.scaled_dot_product_attention(*short), F.scaled_dot_product_attention(*short))
        twice = F.scaled_dot_product_attention(*(torch.cat([x, x]) for x in (q, k, v)))
        assert (twice - torch.cat([wanted, wanted])).abs().max() < 1e-12
        cross = F.scaled_dot_product_attention(q, k[:, :, :N], v[:, :, :N])
        with pytest.raises(BeelineError, match="in attention with a mask"):
            F.scaled_dot_product_attention(q, k, v, torch.ones(N + 2, N + 2, dtype=torch.bool))
    assert torch.equal(cross, F.scaled_dot_product_attention(q, k[:, :, :N], v[:, :, :N]))


def test_the_nearest_tokens_join_the_destinations():
    tokens, score = normal(B, N, 3, seed=1), normal(B, N, seed=2)
    groups = grouped(tokens, score, 3, 5)
    assert groups.size.shape == (B, N - 5) and (groups.size.sum(1) == N).all()
    for b in range(B):
        to = score[b].topk(3).indices.tolist()
        rest = [i for i in range(N) if i not in to]
        near = {i: min((float((tokens[b, i] - tokens[b, j]).norm()), j) for j in to) for i in rest}
        joined = sorted(rest, key=near.get)[:5]
        for i in range(N):
            others = [j for j in range(N) if j != i and groups.owner[b, j] == groups.owner[b, i]]
            expected = near[i][1] if i in joined else None
            assert (expected in others) if i in joined else not set(others) - set(joined)
    alone = grouped(tokens[1:2], score[1:2], 3, 5)
    assert torch.equal(alone.owner, groups.owner[1:2])


def test_no_merged_tokens_leave_all_alone():
    groups = grouped(normal(B, N, 3), normal(B, N), 4, 0)
    assert (groups.size == 1).all() and groups.owner.sort(1).values.tolist() == [list(range(N))] * B
    with pytest.raises(BeelineError, match="9 of 12 tokens"):
        grouped(normal(B, N, 3), normal(B, N), 4, 9)
