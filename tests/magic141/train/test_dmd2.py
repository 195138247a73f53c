"""The mathematics of distillation, where the answer is known."""

import copy
import dataclasses
import itertools

import pytest
import torch
import torch.nn.functional as F

from magic141.scheduler import interpolate
from magic141.train import cfg_distill, consistency, trajectory
from magic141.train.dmd2 import Critic, Dmd2, Recipe, flow_loss, matching_loss, score_times
from magic141.train.fields import backward_simulation, field, guided, predict_x0, step_times
from magic141.train.flow import Batch, normal, times
from magic141.transformer import Magic141Transformer3DModel

SHAPE = (4, 2, 3, 2, 2)


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def randn(*shape, seed=0):
    return torch.randn(shape or SHAPE, generator=gen(seed), dtype=torch.float64)


def view(t):
    return t.view(-1, 1, 1, 1, 1)


def gaussian(mean, std):
    """The exact velocity field of data that are normal, element by element: v = E[eps - x0 | x_t]."""

    def velocity(x_t, t):
        t = view(t)
        variance = (1 - t) ** 2 * std**2 + t**2
        x0 = mean + (1 - t) * std**2 / variance * (x_t - (1 - t) * mean)
        return (x_t - x0) / t

    return velocity


def score(x_t, t, mean, std):
    """Gradient of the log density of x_t = (1 - t) x0 + t eps."""
    t = view(t)
    return -(x_t - (1 - t) * mean) / ((1 - t) ** 2 * std**2 + t**2)


def test_the_matching_gradient_is_the_difference_of_scores_for_gaussians():
    """DMD moves x along s_real - s_fake, scaled by t^2 / (1 - t) and by the normaliser of each sample."""
    t = torch.tensor([0.1, 0.4, 0.7, 0.95], dtype=torch.float64)
    x0 = randn(seed=1).requires_grad_()
    x_t = torch.lerp(x0.detach(), randn(seed=2), view(t))
    real, fake = (predict_x0(gaussian(m, s), x_t, t) for m, s in ((0.5, 1.3), (-0.2, 0.6)))
    matching_loss(x0, real, fake, known=0).backward()
    scores = score(x_t, t, -0.2, 0.6) - score(x_t, t, 0.5, 1.3)
    weight = view(t) ** 2 / (1 - view(t))
    scale = (x0.detach() - real).abs().mean((1, 2, 3, 4), keepdim=True)
    torch.testing.assert_close(x0.grad * x0.numel(), weight * scores / scale)


def test_known_frames_have_no_part_in_gradient_and_normaliser():
    real, fake = randn(seed=1), randn(seed=2)
    found = []
    for change in (0.0, 9.0):
        x0 = randn(seed=3)
        x0[:, :, :1] += change
        x0.requires_grad_()
        matching_loss(x0, real, fake, known=1).backward()
        assert (x0.grad[:, :, :1] == 0).all()
        found.append(x0.grad)
    torch.testing.assert_close(*found)


def test_matching_a_gaussian_moves_the_generator_to_it():
    """A generator of one shift and one scale, with exact scores for both sides, ends at the real distribution."""
    shift, scale = torch.zeros((), dtype=torch.float64), torch.tensor(0.3, dtype=torch.float64)
    shift.requires_grad_()
    scale.requires_grad_()
    solver = torch.optim.Adam([shift, scale], lr=0.02)
    g = gen(0)
    for _ in range(400):
        x0 = shift + scale * torch.randn(64, 1, 1, 4, 4, generator=g).double()
        t = score_times(64, 1.0, g).double()
        x_t = torch.lerp(x0.detach(), torch.randn(x0.shape, generator=g).double(), view(t))
        real = predict_x0(gaussian(1.0, 0.8), x_t, t)
        fake = predict_x0(gaussian(shift.item(), abs(scale.item())), x_t, t)
        solver.zero_grad()
        matching_loss(x0, real, fake, known=0).backward()
        solver.step()
    assert shift.item() == pytest.approx(1.0, abs=0.08)
    assert abs(scale.item()) == pytest.approx(0.8, abs=0.08)


def test_the_critics_loss_is_lowest_for_the_exact_field():
    x0, noise = 0.5 + 1.3 * randn(4096, 1, 1, 2, 2, seed=1), randn(4096, 1, 1, 2, 2, seed=2)
    t = score_times(4096, 1.0, gen(3)).double()
    exact = flow_loss(gaussian(0.5, 1.3), x0, noise, t, 0)
    for mean, std in ((0.4, 1.3), (0.6, 1.3), (0.5, 1.2), (0.5, 1.4)):
        assert flow_loss(gaussian(mean, std), x0, noise, t, 0) > exact


def test_cfg_distillation_of_a_linear_model_finds_the_guided_field():
    """v = a x: the student that minimises the loss has exactly the guided coefficient."""
    uncond, cond, scale = 0.3, -0.5, 3.0
    target = lambda x, t: torch.lerp(uncond * x, cond * x, scale)  # noqa: E731
    a = torch.zeros((), dtype=torch.float64, requires_grad=True)
    solver = torch.optim.LBFGS([a], line_search_fn="strong_wolfe")

    def closure():
        solver.zero_grad()
        found = cfg_distill.loss(lambda x, t: a * x, target, randn(seed=1), 1, 1.0, gen(5))["loss"]
        found.backward()
        return found

    solver.step(closure)
    assert a.item() == pytest.approx(uncond + scale * (cond - uncond), abs=1e-9)


def test_trajectories_end_where_the_exact_flow_does():
    """Normal data: the flow maps noise to mean + std noise."""
    noise = randn(seed=4)
    states = trajectory.trajectory(gaussian(0.5, 1.3), noise, steps=4, stride=200, shift=1.0)
    assert len(states) == 5
    torch.testing.assert_close(states[-1], 0.5 + 1.3 * noise, atol=0.02, rtol=0)


def test_a_student_that_knows_the_ends_has_no_regression_loss():
    noise, mean, std = randn(seed=4), 0.5, 1.3
    states = trajectory.trajectory(gaussian(mean, std), noise, steps=4, stride=500, shift=2.0)
    times = step_times(4, 2.0).double()

    def jump(x_t, t):
        # On the exact trajectory x_t = (1 - t) mean + sqrt((1 - t)^2 std^2 + t^2) noise.
        t = view(t)
        start = (x_t - (1 - t) * mean) / ((1 - t) ** 2 * std**2 + t**2).sqrt()
        return (x_t - (mean + std * start)) / t

    knowing = trajectory.loss(jump, states, times, 1)["loss"]
    ignorant = trajectory.loss(gaussian(mean, std), states, times, 1)["loss"]
    assert knowing < 1e-4 < ignorant


def test_the_consistency_loss_is_smallest_for_the_exact_jump():
    mean, std, x0 = 0.5, 1.3, 0.5 + 1.3 * randn(64, 1, 1, 2, 2, seed=1)

    def jump(x_t, t):
        t = view(t)
        start = (x_t - (1 - t) * mean) / ((1 - t) ** 2 * std**2 + t**2).sqrt()
        return (x_t - (mean + std * start)) / t

    teacher = gaussian(mean, std)
    errors = [consistency.loss(of, of, teacher, x0, 0, 400, 1.0, gen(2))["error"] for of in (jump, teacher)]
    assert errors[0] < 0.01 * errors[1]


# The whole step, on a small transformer.


def small(seed=0):
    torch.manual_seed(seed)
    model = Magic141Transformer3DModel(
        in_channels=33, num_attention_heads=2, attention_head_dim=16, num_layers=1, num_single_layers=3,
        num_refiner_layers=1, text_embed_dim=8, pooled_projection_dim=8, rope_axes_dim=(4, 6, 6),
        image_condition_type="latent_concat", continuation_embed=True,
    )  # fmt: skip
    for parameter in model.parameters():  # gates that are closed at first would hide what the text says
        torch.nn.init.normal_(parameter, std=0.1)
    return model


@pytest.fixture
def batch():
    g = gen(1)
    return Batch(
        latents=torch.randn(4, 16, 3, 4, 4, generator=g),
        known=1,
        continuation=torch.zeros(4, dtype=torch.bool),
        text_tokens=torch.randn(4, 5, 8, generator=g),
        pooled=torch.randn(4, 8, generator=g),
        image_tokens=None,
        cover=torch.zeros(4, 3, 16, 16),
    )


EMPTY = (torch.zeros(1, 5, 8), torch.zeros(1, 8))


@pytest.fixture
def trio():
    return Dmd2(small(), Critic(small(1)), small(2), EMPTY, Recipe(adversarial=0.1, guidance_scale=3.0))


def test_student_and_critic_take_turns_and_only_one_learns(trio, batch):
    for step in range(6):
        terms = trio(step, batch, gen(step))
        terms["loss"].backward()
        moved = {
            name: any(p.grad is not None for p in part.parameters()) for name, part in trio.named_children()
        }
        assert moved == {"student": step % 3 == 2, "critic": step % 3 != 2}
        assert set(terms) == {
            "loss",
            *(("matching", "adversarial") if step % 3 == 2 else ("critic", "discriminator")),
        }
        trio.zero_grad()


@pytest.mark.parametrize(("seed", "exit_step"), [(0, 0), (1, 1), (3, 2), (5, 3)])
def test_the_students_gradient_is_that_of_its_parts(batch, seed, exit_step):
    """DMD, equation 7, put together once more: from a clip that the student makes in `exit_step` steps of its own, away
    from what the critic says and towards the guided teacher."""
    student, critic, teacher = small(), Critic(small(1)), small(2)
    trio = Dmd2(student, critic, teacher, EMPTY, Recipe(guidance_scale=3.0))
    trio(2, batch, gen(seed))["loss"].backward()
    found = {name: p.grad.clone() for name, p in student.named_parameters() if p.grad is not None}
    student.zero_grad()

    g = gen(seed)
    assert int(torch.randint(4, (), generator=g)) == exit_step
    own = field(student, batch)
    x0 = predict_x0(
        own, *backward_simulation(own, normal(batch.latents, g), step_times(4, 3.0), exit_step, g)
    )
    t = score_times(4, 3.0, g)
    x_t = interpolate(x0.detach(), normal(x0, g), t)
    with torch.no_grad():
        real = predict_x0(guided(teacher, batch, EMPTY, 3.0), x_t, t)[:, :, 1:]
        fake = predict_x0(field(critic.transformer, batch), x_t, t)[:, :, 1:]
    made = x0[:, :, 1:]
    scale = (made.detach() - real).abs().mean((1, 2, 3, 4), keepdim=True)
    made.backward((fake - real) / scale / made.numel())
    for name, parameter in student.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(found[name], parameter.grad, rtol=1e-4, atol=1e-7)


def test_the_adversary_calls_true_what_is_true_and_the_student_wants_to_be_called_so(trio, batch):
    trio.realness = lambda noisy, t, batch: torch.full((4,), 2.0)
    assert trio(2, batch, gen())["adversarial"].item() == pytest.approx(F.softplus(torch.tensor(-2.0)).item())
    # True clips are bright, and brightness is what the head sees: it is right about them, and of no opinion else.
    bright = dataclasses.replace(batch, latents=batch.latents.clone())
    bright.latents[:, :, 1:] = 1000.0
    trio.realness = lambda noisy, t, batch: (noisy[:, :, 1:].mean((1, 2, 3, 4)) > 10).float() * 9
    no_opinion, right = (F.softplus(torch.tensor(logit)).item() for logit in (0.0, -9.0))
    assert trio(0, bright, gen())["discriminator"].item() == pytest.approx(no_opinion + right)


def test_the_critic_learns_the_students_clips_and_its_head_sees_true_ones(trio, batch):
    other = dataclasses.replace(batch, latents=batch.latents.clone())
    other.latents[:, :, 1:] += 1
    one, two = (trio(0, each, gen(3)) for each in (batch, other))
    torch.testing.assert_close(one["critic"], two["critic"])
    assert one["discriminator"] != two["discriminator"]


def test_the_critic_is_the_faster_of_two_without_momentum(trio):
    student, critic = trio.optimizers(1e-4)
    assert [solver.param_groups[0]["lr"] for solver in (student, critic)] == pytest.approx([1e-4, 2e-4])
    assert student.param_groups[0]["betas"][0] == critic.param_groups[0]["betas"][0] == 0
    members = {id(p) for p in critic.param_groups[0]["params"]}
    assert members == {id(p) for p in trio.critic.parameters()}


def test_the_teacher_is_neither_trained_nor_saved(batch):
    teacher = small(2)
    before = copy.deepcopy(teacher.state_dict())
    trio = Dmd2(small(), Critic(small(1)), teacher, EMPTY, Recipe(adversarial=0.1, guidance_scale=3.0))
    names = {name.partition(".")[0] for name, _ in trio.named_parameters()}
    assert names == {"student", "critic"}
    solvers = trio.optimizers(0.1)
    for step in range(3):
        trio(step, batch, gen())["loss"].backward()
        for solver in solvers:
            solver.step()
            solver.zero_grad()
    assert all(parameter.grad is None for parameter in teacher.parameters())
    torch.testing.assert_close(teacher.state_dict(), before, rtol=0, atol=0)


def test_the_losses_are_the_sums_of_their_terms(trio, batch):
    """DMD2: matching plus the adversarial term by its weight; the critic's own plus its head's, by 1."""
    critic, student = (trio(step, batch, gen()) for step in (0, 2))
    torch.testing.assert_close(critic["loss"], critic["critic"] + critic["discriminator"])
    torch.testing.assert_close(student["loss"], student["matching"] + 0.1 * student["adversarial"])
    assert student["adversarial"] > 0.1  # or the sum would say little


def test_the_head_learns_where_the_critic_does_and_nowhere_else(trio, batch):
    head = list(trio.critic.head.parameters())
    trio(2, batch, gen())["loss"].backward()
    assert all(parameter.grad is None for parameter in head)
    trio(0, batch, gen())["loss"].backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in head)


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_scores_are_compared_away_from_data_and_from_noise(shift):
    t = score_times(10_000, shift, gen())
    assert (t.min().item(), t.max().item()) == pytest.approx((0.02, 0.98))
    middle = shift * 0.5 / (1 + (shift - 1) * 0.5)
    assert t.median().item() == pytest.approx(middle, abs=0.02)


def test_plain_dmd_has_no_adversarial_term(batch):
    plain = Dmd2(small(), Critic(small()), small(), EMPTY, Recipe())
    assert set(plain(0, batch, gen())) == {"loss", "critic"}
    assert set(plain(2, batch, gen())) == {"loss", "matching"}


def test_the_adversarial_term_reaches_the_student_through_the_critic(batch):
    """What a weight w adds to the student's gradient is w times that of softplus(-D) (DMD2, equation 4)."""

    def gradient(adversarial, name="loss"):
        trio = Dmd2(small(), Critic(small(1)), small(2), EMPTY, Recipe(adversarial=adversarial))
        trio(2, batch, gen())[name].backward()
        return trio.student.proj_out.weight.grad

    added, term = gradient(5.0) - gradient(0.0), gradient(5.0, "adversarial")
    assert term.abs().max() > 1e-4
    torch.testing.assert_close(added, 5 * term, rtol=1e-3, atol=1e-6)


def test_known_frames_of_the_batch_reach_the_student_and_others_do_not(trio, batch):
    """Only the adversarial critic sees true frames, as examples."""
    other = dataclasses.replace(batch, latents=batch.latents.clone())
    other.latents[:, :, 1:] += 1
    found = [trio(2, one, gen(3))["matching"] for one in (batch, other)]
    torch.testing.assert_close(*found)


# The whole step of the controls, put together once more.


def halfway(shift, g, batch):
    """Noised data x_t and t, drawn as methods that learn on data draw them."""
    t = times(len(batch.latents), shift, g)
    return interpolate(batch.latents, normal(batch.latents, g), t), t


def test_a_cfg_student_learns_what_the_guided_teacher_says_of_noised_data(batch):
    student, teacher = small(), small(2)
    method = cfg_distill.CfgDistillation(student, teacher, EMPTY, guidance_scale=3.0, shift=2.0)
    x_t, t = halfway(2.0, gen(3), batch)
    empty = dataclasses.replace(batch, text_tokens=EMPTY[0].expand(4, -1, -1), pooled=EMPTY[1].expand(4, -1))
    without, with_text = (field(teacher, one)(x_t, t) for one in (empty, batch))
    error = (field(student, batch)(x_t, t) - (without + 3 * (with_text - without)))[:, :, 1:]
    torch.testing.assert_close(method(0, batch, gen(3))["loss"], error.square().mean())


@pytest.mark.parametrize(("seed", "ending"), [(3, 0), (17, 2)])
def test_a_consistency_student_learns_what_its_slow_copy_says_one_guided_step_on(batch, seed, ending):
    """Rows whose step ends at data learn that, and not what the copy would say there."""
    student, teacher = small(), small(2)
    method = consistency.ConsistencyDistillation(
        student, teacher, EMPTY, guidance_scale=3.0, shift=2.0, grid=8
    )
    slow = copy.deepcopy(student)
    for parameter, mean in zip(student.parameters(), slow.parameters(), strict=True):
        parameter.data += 0.1
        mean.data += 0.05 * 0.1
    g = gen(seed)
    place = torch.randint(8, (4,), generator=g)
    now, then = (step_times(8, 2.0)[k] for k in (place, place + 1))
    assert (then == 0).sum() == ending
    x_now = interpolate(batch.latents, normal(batch.latents, g), now)
    x_then = x_now + view(then - now) * guided(teacher, batch, EMPTY, 3.0)(x_now, now)
    aim = torch.where(view(then) == 0, x_then, predict_x0(field(slow, batch), x_then, then))
    error = (predict_x0(field(student, batch), x_now, now) - aim)[:, :, 1:]
    width = 0.03 * (error.numel() / 4) ** 0.5
    huber = (error.square().sum((1, 2, 3, 4)) + width**2).sqrt() - width
    found = method(0, batch, gen(seed))
    torch.testing.assert_close(found["loss"], (huber / width).mean())
    torch.testing.assert_close(found["error"], error.square().mean())


def test_a_trajectory_student_learns_where_the_guided_teacher_ends(batch):
    student, teacher = small(), small(2)
    method = trajectory.TrajectoryRegression(
        student, teacher, EMPTY, num_inference_steps=2, guidance_scale=3.0, shift=2.0, stride=3
    )
    of, fine = guided(teacher, batch, EMPTY, 3.0), step_times(6, 2.0)
    x_t = normal(batch.latents, gen(3))
    states = [x_t]
    for now, then in itertools.pairwise(fine):
        x_t = x_t + (then - now) * of(x_t, now.expand(4))
        states.append(x_t)
    own = field(student, batch)
    ends = [predict_x0(own, states[k], fine[k].expand(4)) for k in (0, 3)]
    error = torch.stack([ends[row % 2][row] - states[-1][row] for row in range(4)])[:, :, 1:]
    torch.testing.assert_close(method(0, batch, gen(3))["loss"], error.square().mean())
