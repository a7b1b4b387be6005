"""Metrics of disentanglement: how well codes agree with latents, one code for each.

Latents Z are (..., n, d), codes C (..., n, m), n paired rows; leading dimensions are batches. Computed in float64. A
code that is constant over the rows (a *dead* code) agrees with nothing and counts as absent; it never gives NaN. NaN
and infinities are no values to agree with: they are refused.
"""

from typing import Literal

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

Weighting = Literal["importance", "uniform"]

# A column whose standard deviation is below this share of its largest entry is constant up to rounding.
_CONSTANT = 1e-7


def correlations(latents: Tensor, codes: Tensor) -> Tensor:
    """Absolute Pearson correlation of every latent with every code, (..., d, m); 0 where either is constant.

    Raises:
        ValueError: shapes that do not pair row by row, fewer than two rows, or entries that are not finite.
    """
    Z, C = _standardised(latents, codes)
    return (Z.mT @ C / Z.shape[-2]).abs().clamp_max(1)


def mcc(latents: Tensor, codes: Tensor) -> Tensor:
    """Mean correlation coefficient (...): the mean over latents of |correlation| under the best one-to-one assignment.

    With more codes than latents each latent gets a code of its own and the rest are left over; to score the most used
    codes alone, pass those (see `most_used`). With fewer, latents without a code count as 0.

    Args:
        latents: (..., n, d).
        codes: (..., n, m).

    Raises:
        ValueError: shapes that do not pair row by row, fewer than two rows, or entries that are not finite.

    Source: Hyvärinen and Morioka, "Unsupervised feature extraction by time-contrastive learning and nonlinear ICA",
    NeurIPS 2016.
    """
    table = correlations(latents, codes)
    d, m = table.shape[-2:]
    flat = table.reshape(-1, d, m).numpy(force=True)
    totals = [each[linear_sum_assignment(each, maximize=True)].sum() for each in flat]
    return torch.tensor(np.array(totals) / d, device=table.device).reshape(table.shape[:-2])


def r_score(latents: Tensor, codes: Tensor) -> Tensor:
    """R (...): the mean over latents of √R² of the ordinary least-squares fit of each latent on all codes.

    R is 1 if and only if the latents are an affine function of the codes: linear identification, the part that
    regularisation is not needed for. R ≥ MCC always. A constant latent counts as 0.

    Args:
        latents: (..., n, d).
        codes: (..., n, m).

    Raises:
        ValueError: shapes that do not pair row by row, entries that are not finite, or so few rows, at most one more
            than codes that vary, that any latents are fitted exactly.

    Source: Lachapelle et al., "Synergies between disentanglement and sparsity", ICML 2023.
    """
    Z, C = _standardised(latents, codes)
    explained = (C @ _least_squares(Z, C)).square().mean(-2)  # the variance of Z is 1, so this is R²
    return explained.clamp(0, 1).sqrt().mean(-1)


def dci_disentanglement(latents: Tensor, codes: Tensor, weighting: Weighting = "importance") -> Tensor:
    """DCI disentanglement (...) in [0, 1]: 1 where every code in use serves a single latent.

    D = Σ_i ρ_i (1 − H_d(P_i·)), P_ij = R_ij/Σ_k R_ik, H_d the entropy to base d, R_ij the importance of code i for
    latent j: the absolute coefficient of the least-squares fit of the latents on the codes, all standardised.

    Args:
        latents: (..., n, d).
        codes: (..., n, m).
        weighting: "importance": ρ_i = Σ_j R_ij/Σ R, the standard; "uniform": 1/m for each code that is not dead, as in
            the release of Lachapelle et al. (2023), where even a code that hardly matters counts like the others.

    Raises:
        ValueError: shapes that do not pair row by row, entries that are not finite, an unknown ``weighting``, or so few
            rows, at most one more than codes that vary, that any latents are fitted exactly.

    Source: Eastwood and Williams, "A framework for the quantitative evaluation of disentangled representations",
    ICLR 2018.
    """
    return _one_minus_entropy(importances(latents, codes), weighting)


def dci_completeness(latents: Tensor, codes: Tensor, weighting: Weighting = "importance") -> Tensor:
    """DCI completeness (...) in [0, 1]: 1 where every latent is explained by a single code.

    C = Σ_j ρ_j (1 − H_m(P_·j)), P_ij = R_ij/Σ_k R_kj, and ρ_j the latent's share of all importance or 1/d; arguments
    as in `dci_disentanglement`.
    """
    return _one_minus_entropy(importances(latents, codes).mT, weighting)


def importances(latents: Tensor, codes: Tensor) -> Tensor:
    """R (..., m, d): |coefficients| of the least-squares fit of the latents on the codes, all standardised."""
    Z, C = _standardised(latents, codes)
    return _least_squares(Z, C).abs()


def sparsity(coef: Tensor) -> Tensor:
    """Share of tasks that use each code, (..., m): those with a non-zero row; ``coef`` is (..., tasks, m, k).

    Raises:
        ValueError: no such shape, no task, or coefficients that are not finite.
    """
    if not isinstance(coef, Tensor) or coef.dim() < 3 or coef.shape[-3] < 1:
        given = f"shape {tuple(coef.shape)}" if isinstance(coef, Tensor) else type(coef).__name__
        raise ValueError(f"coef: given {given}, expected a tensor (..., tasks, m, k) of at least one task")
    _finite("coef", coef)
    return (coef != 0).any(-1).double().mean(-2)


def most_used(codes: Tensor, usage: Tensor, n: int) -> Tensor:
    """The ``n`` codes of greatest ``usage`` (m,), such as `sparsity`, in their order: (..., rows, m) to (..., rows, n).

    Raises:
        ValueError: ``usage`` is not one number per code, or not finite, or there are fewer than ``n`` codes.
    """
    m = codes.shape[-1]
    if usage.shape != (m,):
        raise ValueError(f"usage: given shape {tuple(usage.shape)}, expected ({m},), one number for each code")
    _finite("usage", usage)
    if not 1 <= n <= m:
        raise ValueError(f"n: given {n}, expected between 1 and the number of codes, {m}")
    chosen = usage.sort(descending=True, stable=True).indices[:n].sort().values
    return codes[..., chosen]


def _standardised(latents: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
    """Both in float64 with mean 0 and variance 1 over the rows; constant columns become 0."""
    for name, value in (("latents", latents), ("codes", codes)):
        if not isinstance(value, Tensor) or value.dim() < 2 or not value.dtype.is_floating_point or not value.shape[-1]:
            given = (
                f"{value.dtype} of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            )
            raise ValueError(f"{name}: given {given}, expected floats (..., n, size), size ≥ 1")
    if latents.shape[:-1] != codes.shape[:-1]:
        raise ValueError(
            f"codes: given shape {tuple(codes.shape)}, expected one row for each of the latents, {tuple(latents.shape)}"
        )
    if latents.shape[-2] < 2:
        raise ValueError(f"latents: given {latents.shape[-2]} rows, expected at least 2, or nothing varies")
    _finite("latents", latents)
    _finite("codes", codes)
    return _standard(latents.double()), _standard(codes.double())


def _finite(name: str, value: Tensor) -> None:
    bad = ~value.isfinite()
    if bad.any():
        first = tuple(bad.nonzero()[0].tolist())
        raise ValueError(
            f"{name}: given {value[first].item()} at {first}, and {int(bad.sum())} of {bad.numel()} entries like it,"
            " expected finite numbers; a diverged encoder, or missing values in the data?"
        )


def _standard(A: Tensor) -> Tensor:
    # Divided by the largest entry first, squares neither overflow nor vanish.
    largest = A.abs().amax(-2, keepdim=True)
    A = A / torch.where(largest > 0, largest, 1.0)
    centred = A - A.mean(-2, keepdim=True)
    sd = centred.square().mean(-2, keepdim=True).sqrt()
    varies = sd > _CONSTANT
    return torch.where(varies, centred / torch.where(varies, sd, 1.0), 0.0)


def _least_squares(Z: Tensor, C: Tensor) -> Tensor:
    """The coefficients (..., m, d) of least norm."""
    n = Z.shape[-2]
    alive = int((C != 0).any(-2).sum(-1).max()) if C.numel() else 0
    if alive + 1 >= n:
        raise ValueError(
            f"codes: given {n} rows of {alive} codes that vary, expected at least {alive + 2} rows: with fewer any"
            " latents are fitted exactly, whatever the codes"
        )
    return torch.linalg.pinv(C.mT @ C / n, hermitian=True, rtol=1e-10) @ (C.mT @ Z / n)


def _one_minus_entropy(importance: Tensor, weighting: Weighting) -> Tensor:
    """Σ ρ_i (1 − H(row i)) over the rows of (..., p, q), H to base q; rows of zeros weigh nothing."""
    if weighting not in ("importance", "uniform"):
        raise ValueError(f'weighting: given {weighting!r}, expected "importance" or "uniform"')
    total = importance.sum(-1)
    present = total > 0
    P = importance / torch.where(present, total, 1.0)[..., None]
    entropy = torch.special.entr(P).sum(-1) / np.log(max(P.shape[-1], 2))
    weight = total if weighting == "importance" else present.double()
    return (weight * (1 - entropy)).sum(-1) / torch.where(weight.sum(-1) > 0, weight.sum(-1), 1.0)
