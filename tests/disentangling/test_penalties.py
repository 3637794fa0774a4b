"""Penalties on numbers whose answers are known: Wasserstein distances of Gaussians, slopes of linear critics, HSIC."""

import math

import pytest
import torch
from torch import nn

from figureground.core.seeding import make_generator
from figureground.disentangling.adversaries import Adversaries
from figureground.disentangling.independence import cka, gaussian_kernel, hsic
from figureground.disentangling.penalty import Batch, make_network
from figureground.disentangling.separator import Shape
from figureground.disentangling.transport import Transport, estimate_distance, gradient_penalty


def gaussian(n, d, seed, shift=0.0):
    x = torch.randn(n, d, generator=make_generator(seed))
    x[:, 0] += shift
    return x


@pytest.mark.parametrize("slope", [0.0, 1.0, 3.0])
def test_the_gradient_penalty_of_a_linear_critic_is_the_squared_distance_of_its_slope_from_one(slope):
    critic = nn.Linear(5, 1)
    with torch.no_grad():
        critic.weight.zero_()
        critic.weight[0, 2] = slope
    found = gradient_penalty(critic, gaussian(64, 5, 0), gaussian(64, 5, 1), make_generator(2))
    assert found.item() == pytest.approx((slope - 1) ** 2, abs=1e-6)


@pytest.mark.parametrize("shift", [0.0, 1.0, 2.0])
def test_a_trained_critic_estimates_the_wasserstein_distance_of_shifted_gaussians(shift):
    critic = make_network(4, 64, 1, 0)
    solver = torch.optim.Adam(critic.parameters(), lr=2e-3, betas=(0.5, 0.9))
    for step in range(250):
        first, second = gaussian(256, 4, 2 * step, shift), gaussian(256, 4, 2 * step + 1)
        loss = -estimate_distance(critic, first, second)
        loss = loss + 10 * gradient_penalty(critic, first, second, make_generator(step))
        solver.zero_grad()
        loss.backward()
        solver.step()
    with torch.no_grad():
        found = float(estimate_distance(critic, gaussian(20_000, 4, 9001, shift), gaussian(20_000, 4, 9002)))
    # Equal covariances: W1 is the distance of the means. The soft constraint lets a slope s gain W s − 10 (s − 1)².
    assert found == pytest.approx(shift * (1 + shift / 20), abs=0.1)


def batch(dependent, n=256, seed=0):
    """A batch whose foreground part tells the background label, or nothing."""
    generator = make_generator(seed)
    labels = torch.randint(0, 3, (2, n), generator=generator)
    part = torch.randn(n, 6, generator=generator)
    if dependent:
        part[torch.arange(n), labels[1]] += 3
    return Batch(part, torch.randn(n, 2, generator=generator), labels[0], labels[1])


def train_critics(penalty, dependent, steps=120):
    solver = torch.optim.Adam(penalty.parameters(), lr=2e-3, betas=(0.5, 0.9))
    for step in range(steps):
        solver.zero_grad()
        penalty.critic_loss(batch(dependent, seed=step), make_generator(step)).backward()
        solver.step()
    return penalty(batch(dependent, seed=9001), make_generator(9002))


def transport(**changes):
    settings = {"hidden": 64, "code_size": 8, "gradient_weight": 10.0, "normalise": False, "critic_steps": 4,
                "critic_learning_rate": 1e-4, "seed": 0}  # fmt: skip
    return Transport(Shape((6, 2), (3, 3)), **{**settings, **changes})


def test_the_wasserstein_penalty_is_large_for_the_part_that_tells_the_other_label():
    foreground, background = train_critics(transport(), dependent=True).tolist()
    assert foreground > 0.5
    assert abs(background) < 0.2
    foreground, _ = train_critics(transport(), dependent=False).tolist()
    assert abs(foreground) < 0.2


def test_normalised_features_have_the_same_penalty_at_any_scale():
    penalty = transport(normalise=True)
    some = batch(dependent=True)
    large = some._replace(foreground=100 * some.foreground)
    values = [penalty(each, make_generator(0)) for each in (some, large)]
    assert torch.allclose(*values, atol=1e-2)
    raw = transport()
    assert not torch.allclose(raw(some, make_generator(0)), raw(large, make_generator(0)), atol=1e-2)


def test_codes_are_fixed_gaussian_vectors_of_the_other_label_and_depend_on_the_seed():
    penalty = Transport(
        Shape((6, 2), (5, 400)), hidden=8, code_size=64, gradient_weight=1.0, normalise=False, critic_steps=1,
        critic_learning_rate=1e-4, seed=0,
    )  # fmt: skip
    assert penalty.codes_of_foreground.shape == (400, 64)  # the foreground part is paired with background labels
    assert penalty.codes_of_background.shape == (5, 64)
    assert float(penalty.codes_of_foreground.std()) == pytest.approx(1, abs=0.02)
    assert torch.equal(transport().codes_of_foreground, transport().codes_of_foreground)
    assert not torch.equal(transport().codes_of_foreground, transport(seed=1).codes_of_foreground)
    assert not any("codes" in name for name, _ in penalty.named_parameters())


def test_adversaries_return_the_reversed_loss_of_classifiers_that_are_never_certain():
    penalty = Adversaries(Shape((6, 2), (3, 3)), hidden=32, critic_steps=1, critic_learning_rate=1e-3, seed=0)
    foreground, background = (-train_critics(penalty, dependent=True, steps=200)).tolist()
    assert 0.02 < foreground < 0.5
    assert background == pytest.approx(math.log(3), abs=0.15)  # chance
    some = batch(dependent=True)
    part = some.foreground.clone().requires_grad_(True)
    (reversed_,) = torch.autograd.grad(penalty(some._replace(foreground=part), make_generator(0))[0], part)
    loss = nn.functional.cross_entropy(penalty.critics[0](part), some.background_label)
    (gradient,) = torch.autograd.grad(loss, part)
    assert torch.allclose(reversed_, -gradient)


def test_hsic_of_independent_variables_is_zero_on_average_even_on_small_batches():
    values = []
    for seed in range(200):
        some = batch(dependent=False, n=16, seed=seed)
        hot = nn.functional.one_hot(some.background_label, 3).float()
        values.append(hsic(gaussian_kernel(some.foreground), hot @ hot.T))
    mean, error = torch.stack(values).mean(), torch.stack(values).std() / math.sqrt(200)
    assert abs(mean) < 3 * error


def test_hsic_agrees_with_its_definition_as_a_sum_over_quadruples():
    x, y = gaussian(7, 2, 0), gaussian(7, 2, 1)
    k, m = gaussian_kernel(x), gaussian_kernel(y)
    n, total, count = 7, 0.0, 0
    for i in range(n):
        for j in range(n):
            for q in range(n):
                for r in range(n):
                    if len({i, j, q, r}) == 4:
                        total += float(k[i, j] * (m[i, j] + m[q, r] - 2 * m[i, q]))
                        count += 1
    assert float(hsic(k, m)) == pytest.approx(total / count, abs=1e-5)


def test_normalised_hsic_is_one_of_a_variable_with_itself_whatever_its_scale_and_large_if_labels_are_encoded():
    x = gaussian(64, 3, 0)
    assert float(cka(gaussian_kernel(x), gaussian_kernel(5 * x))) == pytest.approx(1, abs=1e-4)
    dependent, independent = batch(dependent=True), batch(dependent=False)
    values = []
    for each in (dependent, independent):
        hot = nn.functional.one_hot(each.background_label, 3).float()
        values.append(float(cka(gaussian_kernel(each.foreground), hot @ hot.T)))
    assert values[0] > 0.2 > 0.03 > abs(values[1])
