"""What the entropies of HyDeS promise: areas, simplices and known densities; pytest -s shows figures."""

import math

import pytest
import torch
from torch import Tensor
from viewmill.methods.vmf import hydes_loss, log_vmf_constant


def unit_vectors(count: int, dim: int, seed: int = 0) -> Tensor:
    z = torch.randn(count, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return z / z.norm(dim=1, keepdim=True)


def global_entropy(z_ND: Tensor, kappa: float) -> Tensor:
    """Differentiable H_global, nats: with alpha 1 and beta 0 the loss is its negative."""
    return -hydes_loss(z_ND.view(2, -1, z_ND.shape[1]), kappa=kappa, alpha=1.0, beta=0.0).loss


def log_area(dim: int) -> float:
    """Of the unit sphere of R^dim."""
    return math.log(2) + dim / 2 * math.log(math.pi) - math.lgamma(dim / 2)


@pytest.mark.parametrize("dim", [2, 3, 16, 128])
def test_of_uniform_points_the_entropy_tends_to_the_log_area_of_the_sphere(dim: int) -> None:
    # A kernel that is spread evenly is even whatever its width, so kappa may stay.
    errors = [
        abs(global_entropy(unit_vectors(count, dim), kappa=2.0).item() - log_area(dim))
        for count in (32, 256, 2048)
    ]
    print(f"D = {dim}: log area {log_area(dim):.4f}, errors {', '.join(f'{e:.1e}' for e in errors)}")
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 2e-3


@pytest.mark.parametrize("kappa", [0.5, 5.0, 50.0])
@pytest.mark.parametrize(("count", "dim"), [(4, 3), (8, 7), (6, 16)])
def test_ascent_finds_the_simplex_where_there_is_room_for_it(count: int, dim: int, kappa: float) -> None:
    z = unit_vectors(count, dim, seed=1).requires_grad_()
    search = torch.optim.LBFGS(
        [z], max_iter=100, tolerance_grad=1e-9, tolerance_change=1e-15, line_search_fn="strong_wolfe"
    )

    def descend() -> Tensor:
        search.zero_grad()
        loss = -global_entropy(z, kappa)
        loss.backward()
        return loss

    search.step(descend)
    # All cosines -1/(N-1), so every row sums to lse = log(N-1) - kappa/(N-1).
    expected = kappa / (count - 1) - log_vmf_constant(dim, kappa)
    found = global_entropy(z.detach(), kappa).item()
    unit = z.detach() / z.detach().norm(dim=1, keepdim=True)
    cosines = (unit @ unit.T)[~torch.eye(count, dtype=torch.bool)]
    print(f"N = {count}, D = {dim}, kappa {kappa}: entropy {found:.6f}, of the simplex {expected:.6f}")
    assert found == pytest.approx(expected, abs=1e-6)
    torch.testing.assert_close(cosines, torch.full_like(cosines, -1 / (count - 1)), rtol=0, atol=1e-3)


def vmf_samples(count: int, concentration: float, seed: int) -> Tensor:
    """Of the von Mises-Fisher density on the sphere of R^3: its height's distribution is inverted."""
    generator = torch.Generator().manual_seed(seed)
    u, angle = torch.rand(2, count, generator=generator, dtype=torch.float64)
    height = 1 + torch.log(u + (1 - u) * math.exp(-2 * concentration)) / concentration
    radius = (1 - height**2).clamp(min=0).sqrt()
    angle = 2 * math.pi * angle
    return torch.stack([radius * angle.cos(), radius * angle.sin(), height], dim=1)


def test_of_a_known_density_the_error_falls_as_points_and_kappa_grow_together() -> None:
    concentration = 5.0
    exact = -log_vmf_constant(3, concentration) - concentration / math.tanh(concentration) + 1

    def error(count: int, kappa: float) -> float:
        """Mean over six samples."""
        found = [global_entropy(vmf_samples(count, concentration, seed), kappa).item() for seed in range(6)]
        return sum(abs(entropy - exact) for entropy in found) / len(found)

    growing = [error(count, kappa) for count, kappa in ((60, 3.0), (300, 8.0), (2000, 48.0))]
    alone = error(2000, 3.0)
    print(f"exact {exact:.4f}; errors {growing}; many points with a wide kernel {alone:.4f}")
    assert growing[0] > 2 * growing[1] > 4 * growing[2]
    assert growing[2] < 0.05
    assert alone > 0.1  # points alone do not help: the kernel's own width stays in the estimate
