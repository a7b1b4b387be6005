import lightning as L
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

import implicitlayers as il
from implicitlayers.models.cli import quiet_lightning
from implicitlayers.models.code_encoders import MLP, ConvEncoder
from implicitlayers.models.datasets.latents import Latents
from implicitlayers.models.disentanglement import mcc, r_score
from implicitlayers.models.divergence import Diverged
from implicitlayers.models.inner import RelativeRidge, StartedLasso, UnrolledLasso
from implicitlayers.models.multi_task import MultiTaskLearner
from implicitlayers.models.tasks import BinomialGaussian, Tasks, TaskStream
from tests.helpers import normal

INNER = {
    "lasso": il.Lasso(il.Relative(0.1)),
    "absolute": il.Lasso(0.05),
    "started": StartedLasso(il.Relative(0.1)),
    "unrolled": UnrolledLasso(il.Relative(0.1)),
    "ridge": RelativeRidge(0.1),
    "group-lasso": il.GroupLasso(il.Relative(0.1)),
    "sparse-ridge": il.SparseRidge(0.01, 2, tol=float("inf")),
}


def stream(steps=3, d=4, n_targets=1, n_layers=3, **options) -> TaskStream:
    pool = Latents(n_latents=d, n_layers=n_layers).pool(500, correlation=0.5)
    return TaskStream(
        pool, BinomialGaussian(), steps=steps, n_targets=n_targets, **{"tasks": 4, "samples": 20} | options
    )


def learner(inner="lasso", d=4, **options) -> MultiTaskLearner:
    torch.manual_seed(0)
    inner = INNER[inner] if isinstance(inner, str) else inner
    return MultiTaskLearner(MLP(d, d, widths=(16,)), inner, **options)


def trained(model, tasks) -> L.Trainer:
    quiet_lightning()
    options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = L.Trainer(accelerator="cpu", max_epochs=1, enable_model_summary=False, **options)
    trainer.fit(model, DataLoader(tasks, batch_size=None))
    return trainer


def by_hand(model, tasks, n_inner, outer):
    """Loss and coefficients, task by task, with the normalisation written out."""
    losses, coefs = [], []
    for observations, of_set in zip(*tasks, strict=True):
        codes = model.encoder(observations)
        inner = codes[:n_inner]
        codes = (codes - inner.mean(0)) / (inner.var(0, unbiased=False) + 1e-5).sqrt()
        for Y in of_set:
            W = model.inner.solve(codes[:n_inner], Y[:n_inner]).coef
            losses.append(((Y[outer] - codes[outer] @ W) ** 2).sum(-1).mean() / 2)
            coefs.append(W)
    return torch.stack(losses).mean(), torch.stack(coefs)


@pytest.mark.parametrize("inner", INNER)
@pytest.mark.parametrize("split", [False, True])
def test_tasks_are_solved_each_on_its_own_samples_and_statistics(inner, split):
    model, tasks = learner(inner, split=split), stream(n_targets=2, shared=2)[0]
    n, outer = (10, slice(10, None)) if split else (20, slice(None))
    loss, coef = by_hand(model, tasks, n, outer)
    output = model(tasks)
    torch.testing.assert_close(output.solution.coef.flatten(0, 1), coef, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(output.loss, loss, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "inner",
    [
        il.Lasso(0.05),
        StartedLasso(0.05),
        UnrolledLasso(0.05, steps=500),
        il.Ridge(0.1),
        il.GroupLasso(0.05),
        il.SparseRidge(0.01, 2, tol=float("inf")),
    ],
    ids=lambda inner: type(inner).__name__,
)
def test_the_gradient_passes_through_the_inner_solution(inner):
    """Against central differences in the encoder's weights, with strengths that do not depend on the codes."""
    tasks = Tasks(*(tensor.double() for tensor in stream(n_targets=2, shared=2)[0]))
    model = learner(inner, outer_l1=0.01, outer_l2=0.1).double()
    parameter = model.encoder.layers[0].weight
    (gradient,) = torch.autograd.grad(model(tasks).loss, parameter)
    direction, start = normal(*parameter.shape), parameter.detach().clone()
    losses = []
    for step in (1e-5, -1e-5):
        parameter.data = start + step * direction
        losses.append(model(tasks).loss.item())
    assert (gradient * direction).sum().item() == pytest.approx((losses[0] - losses[1]) / 2e-5, rel=1e-4, abs=1e-7)


@given(seed=st.integers(0, 1000), scale=st.floats(0.1, 10))
@settings(max_examples=10)
def test_batch_normalisation_makes_scale_and_offset_of_codes_irrelevant(seed, scale):
    model, tasks = learner("ridge"), stream(seed=seed)[0]
    loss = model(tasks).loss
    last = model.encoder.layers[-1]
    with torch.no_grad():
        last.weight.mul_(scale)
        last.bias.add_(seed)
    torch.testing.assert_close(model(tasks).loss, loss, rtol=2e-2, atol=2e-3)


def test_layer_normalisation_is_over_the_codes_of_a_sample():
    model, observations = learner(normalisation="layer"), stream()[0].observations[0]
    codes = model.encode(observations)
    assert codes.mean(-1) == pytest.approx(torch.zeros(20), abs=1e-5)
    torch.testing.assert_close(model.encode(observations[:5]), codes[:5])


def test_outer_penalties_are_added_to_the_loss():
    tasks = stream()[0]
    plain, penalised = learner()(tasks), learner(outer_l1=0.3, outer_l2=0.7)(tasks)
    W = plain.solution.coef
    expected = plain.loss + 0.3 * W.abs().sum((-2, -1)).mean() + 0.35 * W.square().sum((-2, -1)).mean()
    torch.testing.assert_close(penalised.loss, expected)


def test_unrolled_steps_reach_the_layer_s_solution_and_gradient():
    X, Y = normal(3, 30, 5).requires_grad_(), normal(3, 30, 2, seed=1)
    exact, unrolled, few = (
        inner.solve(X, Y) for inner in (il.Lasso(0.1), UnrolledLasso(0.1, steps=300), UnrolledLasso(0.1, steps=3))
    )
    torch.testing.assert_close(unrolled.coef, exact.coef, rtol=1e-8, atol=1e-10)
    gradients = [torch.autograd.grad(each.coef.square().sum(), X)[0] for each in (exact, unrolled)]
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-6, atol=1e-8)
    assert unrolled.converged.all()
    assert not few.converged.any()
    assert (few.gap > 1e-3).all()


@given(seed=st.integers(0, 1000), share=st.floats(0.01, 0.9))
@settings(max_examples=10)
def test_a_start_changes_nothing_but_the_way(seed, share):
    X, Y = normal(4, 30, 6, seed=seed), normal(4, 30, 1, seed=seed + 1)
    cold, started = (inner.solve(X, Y) for inner in (il.Lasso(il.Relative(share)), StartedLasso(il.Relative(share))))
    torch.testing.assert_close(started.coef, cold.coef, rtol=1e-6, atol=1e-8)
    assert started.converged.all()


def test_relative_ridge_has_a_strength_in_proportion_to_the_features():
    X, Y = normal(3, 30, 5), normal(3, 30, 1, seed=1)
    l2 = 0.2 * X.square().sum((-2, -1)) / 30
    torch.testing.assert_close(RelativeRidge(0.2).solve(X, Y).coef, il.Ridge(l2)(X, Y))
    torch.testing.assert_close(RelativeRidge(0.2).solve(10 * X, Y).coef, il.Ridge(l2)(X, Y) / 10)


def test_training_with_an_inner_lasso_finds_latents_that_a_ridge_only_mixes():
    """Four correlated latents mixed by a rotation, a linear encoder: the theorem, with descent in the outer problem."""
    data = Latents(n_latents=4, n_layers=1)
    pool, uniform = data.pool(2000, correlation=0.9), data.uniform_pool(1000)
    found = {}
    for name, inner in {"lasso": StartedLasso(il.Relative(0.3)), "ridge": RelativeRidge(0.1)}.items():
        torch.manual_seed(1)
        model = MultiTaskLearner(MLP(4, 4, widths=()), inner, lr=0.1)
        trainer = trained(model, TaskStream(pool, BinomialGaussian(), steps=100, tasks=32, seed=1))
        found[name] = model.encode(uniform.observations)
        assert trainer.callback_metrics["worst_gap"] <= 1e-6
        assert trainer.callback_metrics["flagged"] == 0
    assert mcc(uniform.latents, found["lasso"]) > 0.98
    assert mcc(uniform.latents, found["ridge"]) < 0.9
    assert all(r_score(uniform.latents, codes) > 0.99 for codes in found.values())


def test_training_repeats_itself_and_logs_what_certifies_it():
    losses = []
    for _ in range(2):
        model = learner()
        logged = trained(model, stream()).callback_metrics
        losses.append(logged["loss"])
        assert {"loss", "codes_used", "worst_gap", "flagged"} <= set(logged)
        assert 0 < logged["codes_used"] <= 1
    assert losses[0] == losses[1]


def test_codes_of_images_do_not_depend_on_how_they_are_stored_or_batched():
    model = MultiTaskLearner(ConvEncoder(16, n_codes=3), INNER["ridge"])
    images = torch.randint(256, (10, 3, 16, 16), dtype=torch.uint8)
    codes = model.encode(images)
    assert codes.shape == (10, 3)
    torch.testing.assert_close(model.encode(images.float() / 255, batch_size=3), codes)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"normalisation": "group"}, "normalisation: given 'group'"),
        ({"lr": 0.0}, "lr: given 0.0"),
        ({"outer_l1": -1.0}, "outer_l1: given -1.0"),
        ({"weight_decay": -1.0}, "weight_decay: given -1.0"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        learner(**options)


def test_wrong_tasks_and_inner_problems_are_named():
    observations, targets = stream()[0]
    with pytest.raises(
        ValueError, match=r"tasks: given observations of shape \(4, 20, 4\) and targets \(4, 1, 19, 1\)"
    ):
        learner()(Tasks(observations, targets[:, :, :19]))
    with pytest.raises(ValueError, match="at least 2 to split"):
        learner(split=True)(Tasks(observations[:, :1], targets[:, :, :1]))
    for make, message in [
        (lambda: RelativeRidge(-1), "ratio: given -1"),
        (lambda: UnrolledLasso(0.1, steps=0), "steps: given 0"),
        (lambda: UnrolledLasso(-0.1), "l1: given -0.1"),
        (lambda: ConvEncoder(20), "image_size: given 20"),
    ]:
        with pytest.raises(ValueError, match=message):
            make()


def test_training_ends_where_its_loss_is_no_number():
    """Case 31's relative: a diverged encoder gives NaN coefficients, and their loss is NaN."""
    model = learner(il.Lasso(0.1, on_fail="ignore"))
    with torch.no_grad():
        next(model.encoder.parameters()).fill_(torch.nan)
    with pytest.raises(Diverged, match=r"^loss: given nan at step 0, expected a finite number"):
        trained(model, stream())
