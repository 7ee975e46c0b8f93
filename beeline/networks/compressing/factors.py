"""Formats that store a weight as products of smaller matrices."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor

from beeline.core.ranges import Count, Share, dataclass
from beeline.networks.compressing.compressor import Moments
from beeline.networks.compressing.formats import Format, nonzero, pack, unpack
from beeline.networks.compressing.rounding import damped, made_good

BYTE = 256  # rows that an index of a byte can name
DAMP = 0.01  # of the mean of the second moments of inputs


@dataclass(frozen=True)
class Factors(Format):
    """A product of two matrices of low rank, which also takes fewer operations.

    W ~ U V,  U [out,rank], V [rank,in], rank = share in out / (in + out)
    With ``outputs`` it is the nearest one for the outputs of the layer, E |W x - U V x|^2; else for the weight.
    Source: Eckart and Young 1936; of layers: Greenformers (Schattenberg et al. 2022); outputs: Kaushal et al. 2023,
    LORD (arXiv 2309.14021).

    >>> Factors(0.5).rank(64, 64)
    16
    """

    share: Share = 0.5  # of the numbers of the weight
    outputs: bool = True

    @property
    def calibrated(self) -> bool:
        return self.outputs

    def rank(self, out: int, into: int) -> int:
        """The rank for a weight [out,into]: at least 1."""
        return max(1, min(int(self.share * out * into / (out + into)), out, into))

    def encode(self, w: Tensor, moments: Moments | None = None) -> dict[str, Tensor]:
        up, down = split(w, self.rank(*w.shape), moments if self.outputs else None)
        return {"up": up, "down": down}

    def decode(self, stored: Mapping[str, Tensor], out: int, into: int) -> Tensor:
        return stored["up"] @ stored["down"]

    def product(self, x: Tensor, stored: Mapping[str, Tensor], out: int) -> Tensor:
        return F.linear(F.linear(x, stored["down"].to(x.dtype)), stored["up"].to(x.dtype))


def split(w: Tensor, rank: int, moments: Moments | None = None) -> tuple[Tensor, Tensor]:
    """The factors [out,rank], [rank,in] whose product is nearest to a weight, or to its outputs with moments."""
    root = None if moments is None else torch.linalg.cholesky(damped(moments.second, 1e-6))  # E[x x^T] = L L^T
    u, s, v = torch.linalg.svd(w.double() if root is None else w.double() @ root, full_matrices=False)
    u, v = u[:, :rank] * s[:rank].sqrt(), s[:rank, None].sqrt() * v[:rank]
    if root is not None:
        v = torch.linalg.solve_triangular(root, v, upper=False, left=False)
    return u.to(w.dtype).contiguous(), v.to(w.dtype).contiguous()


@dataclass(frozen=True)
class Kronecker(Format):
    """A sum of Kronecker products.

    W ~ sum_k A_k (x) B_k,  A_k [a,c], B_k [b,d] with a b = out and c d = in near their roots
    Source: Van Loan and Pitsianis 1993; of layers: Zhang et al. 2021, parameterized hypercomplex multiplication (arXiv
    2102.08597).

    >>> form = Kronecker(1)
    >>> form.decode(form.encode(torch.eye(6)), 6, 6).round().equal(torch.eye(6))
    True
    """

    terms: Count = 4

    def encode(self, w: Tensor, moments: Moments | None = None) -> dict[str, Tensor]:
        (a, b), (c, d) = near_root(w.shape[0]), near_root(w.shape[1])
        blocks = w.view(a, b, c, d).transpose(1, 2).reshape(a * c, b * d)
        first, second = split(blocks, min(self.terms, *blocks.shape))
        return {"first": first.T.unflatten(1, (a, c)).contiguous(), "second": second.unflatten(1, (b, d))}

    def decode(self, stored: Mapping[str, Tensor], out: int, into: int) -> Tensor:
        return torch.einsum("kac,kbd->abcd", stored["first"], stored["second"]).reshape(out, into)


def near_root(n: int) -> tuple[int, int]:
    """Two factors of a number, as equal as possible, the smaller one first."""
    first = next(k for k in range(math.isqrt(n), 0, -1) if n % k == 0)
    return first, n // first


@dataclass(frozen=True)
class Monarch(Format):
    """A matrix of blocks, each of rank one or few.

    W_ij ~ U_ij V_ij for the blocks i, j of a division of outputs and inputs into as many parts
    It is the product of two block-diagonal matrices and permutations.
    Source: Dao et al. 2022, "Monarch" (arXiv 2204.00595).

    >>> Monarch(4).blocks
    4
    """

    blocks: Count = 4  # along each axis; fewer where they do not divide the sizes of a layer
    rank: Count = 1  # of a block

    def encode(self, w: Tensor, moments: Moments | None = None) -> dict[str, Tensor]:
        n = math.gcd(self.blocks, *w.shape)
        parts = w.double().unflatten(1, (n, -1)).unflatten(0, (n, -1)).transpose(1, 2)  # [n,n,out/n,in/n]
        u, s, v = torch.linalg.svd(parts, full_matrices=False)
        rank, root = min(self.rank, s.shape[-1]), s.sqrt()
        up, down = u[..., :rank] * root[..., None, :rank], root[..., :rank, None] * v[..., :rank, :]
        return {"up": up.to(w.dtype).contiguous(), "down": down.to(w.dtype).contiguous()}

    def decode(self, stored: Mapping[str, Tensor], out: int, into: int) -> Tensor:
        return (stored["up"] @ stored["down"]).transpose(1, 2).reshape(out, into)


@dataclass(frozen=True)
class Signs(Format):
    """Signs, and sizes of low rank; several of them one on the rest of the other.

    W ~ sum_k sign(R_k) * (U_k V_k),  R_1 = W, R_k+1 = R_k - sign(R_k) * (U_k V_k), U_k V_k the nearest to |R_k|
    A number takes ``blocks`` bits and what the factors take.  The first blocks are a file of fewer blocks.  One bit is
    not enough without training afterwards.
    Source: one block: Xu et al. 2024, OneBit (arXiv 2402.11295); several: Wang et al. 2024, BitStack (arXiv
    2410.23918).

    >>> form = Signs()
    >>> form.decode(form.encode(torch.tensor([[2.0, -2.0]])), 1, 2)
    tensor([[ 2., -2.]])
    """

    blocks: Count = 1
    rank: Count = 1

    def encode(self, w: Tensor, moments: Moments | None = None) -> dict[str, Tensor]:
        rest, stored = w, dict[str, Tensor]()
        for k in range(self.blocks):
            up, down = split(rest.abs(), min(self.rank, *w.shape))
            positive = rest >= 0
            stored |= {f"codes{k}": pack(positive.to(torch.uint8), 1), f"up{k}": up, f"down{k}": down}
            rest = rest - torch.where(positive, 1.0, -1.0) * (up @ down)
        return stored

    def decode(self, stored: Mapping[str, Tensor], out: int, into: int) -> Tensor:
        total: Tensor | None = None
        for k in range(self.blocks):
            sizes = stored[f"up{k}"] @ stored[f"down{k}"]
            part = sizes * (2 * unpack(stored[f"codes{k}"], 1, into).to(sizes.dtype) - 1)
            total = part if total is None else total + part
        assert total is not None
        return total


@dataclass(frozen=True)
class DenseSparse(Format):
    """A small dense matrix times a sparse one: every column of the weight is a sum of a few atoms.

    W ~ D S,  D [out,atoms], S [atoms,in] with ``nonzeros`` numbers in every column
    D is found by K-SVD: S by orthogonal matching pursuit, then one atom after another with its coefficients.  With
    ``inputs`` columns count by E[x_j^2], and the error of a column is made good by those that come after.
    It has less error than factors of low rank of equal bytes where columns lie in several subspaces, and takes more
    operations than they do.
    Source: Chand et al. 2023, "DSFormer" (arXiv 2312.13211), without its training of the places; Aharon et al. 2006,
    "K-SVD".

    >>> DenseSparse(0.5, nonzeros=4).atoms(64, 64)
    27
    """

    share: Share = 0.5  # of the bytes of the weight, where it is large enough for ``nonzeros`` atoms
    nonzeros: Count = 4
    rounds: Count = 25
    inputs: bool = True  # whether the sizes of inputs count

    @property
    def calibrated(self) -> bool:
        return self.inputs

    def atoms(self, out: int, into: int) -> int:
        """The columns of the dense matrix for a weight [out,in]."""
        count = int((self.share * out - 1.25 * self.nonzeros) * into / out)  # an index takes a byte
        if count > BYTE:
            count = max(BYTE, int((self.share * out - 1.5 * self.nonzeros) * into / out))
        return max(1, min(self.nonzeros, into), min(count, into))

    def encode(self, w: Tensor, moments: Moments | None = None) -> dict[str, Tensor]:
        moments = moments if self.inputs else None
        n = min(self.nonzeros, w.shape[1])
        size = w.new_ones(w.shape[1]) if moments is None else nonzero(moments.second.diagonal().sqrt()).to(w)
        atoms = k_svd((w * size).double(), self.atoms(*w.shape), n, self.rounds)
        chosen = pursuit(atoms, n)
        index, values = chosen(w.double())
        if moments is not None:
            second = damped(moments.second, DAMP)

            def column(j: int, now: Tensor) -> Tensor:
                index[:, j : j + 1], values[:, j : j + 1] = i, v = chosen(now[:, j : j + 1])
                return (atoms[:, i[:, 0]] * v[:, 0]).sum(1)

            made_good(w, moments.second, DAMP, column)
            s = spread(index, values, atoms.shape[1])
            gram = damped(s @ second @ s.mT, 1e-9)
            atoms = torch.linalg.solve(gram, w.double() @ second @ s.mT, left=False)
        kind = torch.uint8 if atoms.shape[1] <= BYTE else torch.int16
        return {"atoms": atoms.to(w.dtype).contiguous(), "values": values.to(w.dtype), "index": index.to(kind)}

    def decode(self, stored: Mapping[str, Tensor], out: int, into: int) -> Tensor:
        return stored["atoms"] @ spread(stored["index"], stored["values"], stored["atoms"].shape[1])


def spread(index: Tensor, values: Tensor, atoms: int) -> Tensor:
    """The sparse matrix [atoms,in] of numbers [nonzeros,in] and their rows."""
    return values.new_zeros(atoms, values.shape[1]).scatter_add(0, index.long(), values)


def pursuit(atoms: Tensor, nonzeros: int) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """Orthogonal matching pursuit: w [out,in] -> the atoms [nonzeros,in] and the coefficients of its columns."""
    size = nonzero(atoms.norm(dim=0))
    unit = atoms / size
    gram = unit.mT @ unit

    def chosen(w: Tensor) -> tuple[Tensor, Tensor]:
        rest, wanted = w, unit.mT @ w
        index = torch.empty(0, w.shape[1], dtype=torch.long, device=w.device)
        values = w.new_empty(0, w.shape[1])
        for n in range(1, nonzeros + 1):
            fits = (unit.mT @ rest).abs().scatter(0, index, -1.0)
            index = torch.cat([index, fits.argmax(0)[None]])
            blocks = gram[index.mT[:, :, None], index.mT[:, None, :]] + 1e-10 * torch.eye(n).to(gram)
            values = torch.linalg.solve(blocks, wanted.gather(0, index).mT[..., None])[..., 0].mT
            rest = w - unit @ spread(index, values, unit.shape[1])
        return index, values / size[index]

    return chosen


def k_svd(w: Tensor, count: int, nonzeros: int, rounds: int) -> Tensor:
    """Atoms [out,count] whose sums of ``nonzeros`` are near the columns of w, from evenly spaced columns on."""
    begin = torch.linspace(0, w.shape[1] - 1, count, device=w.device).round().long()
    atoms = w[:, begin].clone()
    for _ in range(rounds):
        index, values = pursuit(atoms, nonzeros)(w)
        sparse = spread(index, values, count)
        rest = w - atoms @ sparse
        for k in range(count):
            used = sparse[k].nonzero()[:, 0]
            if not len(used):  # in place of an atom without use, the column that is farthest from its sum
                worst = rest.norm(dim=0).argmax()
                atoms[:, k], rest[:, worst] = w[:, worst], 0.0
                continue
            part = rest[:, used] + atoms[:, k : k + 1] * sparse[k, used]
            atom = part @ sparse[k, used]
            atom = atom / nonzero(atom.norm())
            new = atom @ part
            atoms[:, k], sparse[k, used] = atom, new
            rest[:, used] = part - atom[:, None] * new
    return atoms
