"""What is set around a call does not reach its numbers, in either pass, and a call leaves it as it was."""

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import threading

import pytest
import torch
from helpers import labels, normal, relative_error
from test_all_layers import CASES, variants
from torch.func import grad, jvp

import implicitlayers as il
from implicitlayers import ambient, solve, solvers

HALF = torch.bfloat16


@contextlib.contextmanager
def set_and_reset(set_, value, before):
    set_(value)
    try:
        yield
    finally:
        set_(before)


def autocast(dtype=HALF):
    return torch.autocast("cpu", dtype=dtype)


@contextlib.contextmanager
def nested_autocast():
    with autocast(torch.float16), torch.autocast("cpu", enabled=False), autocast():
        yield


# Around the call and around the backward passes.
SETTINGS = {
    "autocast": autocast,
    "autocast to float16": lambda: autocast(torch.float16),
    "autocast, nested": nested_autocast,
    "autocast, set": lambda: set_and_reset(lambda on: torch.set_autocast_enabled("cpu", on), True, False),
    "default dtype float16": lambda: set_and_reset(torch.set_default_dtype, torch.float16, torch.float32),
    "default dtype float64": lambda: set_and_reset(torch.set_default_dtype, torch.float64, torch.float32),
    "default device": lambda: torch.device("meta"),
    "deterministic": lambda: set_and_reset(torch.use_deterministic_algorithms, True, False),
    "flush denormal": lambda: set_and_reset(torch.set_flush_denormal, True, False),
    "anomalies": torch.autograd.detect_anomaly,
    "enable_grad": torch.enable_grad,
}
LARGE = ["ridge_tall", "ridge_wide", "sparse_group_lasso", "huber", "logistic", "sparse_svm", "sparse_ridge"]


@pytest.fixture
def large(monkeypatch):
    """Every X counts as large: it stays float32."""
    monkeypatch.setattr(solve, "WHOLE_UP_TO", 0)
    monkeypatch.setattr(ambient, "SMALL", 0)


def numbers(case, fit_intercept, forward=contextlib.nullcontext, backward=contextlib.nullcontext):
    """The solution, and its first and second derivatives, of float32 features."""
    arguments = {name: a.clone().requires_grad_(name in case.moving) for name, a in case.arguments(2).items()}
    arguments["X"] = arguments["X"].detach().float().requires_grad_()
    inputs = [arguments[name] for name in case.moving]
    with forward():
        W = case.coefficients(arguments, fit_intercept=fit_intercept, tol=None, on_fail="ignore")
    C = normal(*W.shape, seed=5, dtype=W.dtype)
    value = (W * C).sum()
    with backward():
        first = torch.autograd.grad(value, inputs, create_graph=True)
    product = torch.stack([(g * g.detach().cos()).sum().double() for g in first]).sum()
    with backward():
        second = torch.autograd.grad(product, inputs)
    return W.detach(), *(g.detach() for g in first), *second


def assert_equal(given, expected, name=""):
    assert len(given) == len(expected)
    for a, b in zip(given, expected, strict=True):
        assert torch.equal(a, b), name


@variants
@pytest.mark.filterwarnings("ignore:Anomaly Detection")
def test_numbers_do_not_depend_on_what_is_set(case, fit_intercept):
    """Autocast left the second derivatives of small problems off by 3.6 % (case 16)."""
    expected = numbers(case, fit_intercept)
    for name, setting in SETTINGS.items():
        assert_equal(numbers(case, fit_intercept, setting, setting), expected, name)


@pytest.mark.usefixtures("large")
@pytest.mark.parametrize("name", LARGE)
def test_autocast_does_not_reach_large_problems(name):
    """Around the call alone, as torch advises, around the backward passes alone, and around both (case 16)."""
    expected = numbers(CASES[name], False)
    for passes in ({"forward": autocast}, {"backward": autocast}, {"forward": autocast, "backward": autocast}):
        assert_equal(numbers(CASES[name], False, **passes), expected)


def test_backward_after_autocast_of_a_ridge_whose_features_stay_float32():
    """1025 × 1024 features: RuntimeError in `backward` (case 16)."""
    gradients = []
    for context in (contextlib.nullcontext, autocast):
        X, Y = normal(1025, 1024, dtype=torch.float32).requires_grad_(), normal(1025, 1, seed=1)
        with context():
            loss = il.Ridge(l2=0.1)(X, Y).square().sum()
        loss.backward()
        gradients.append(X.grad)
    assert torch.equal(*gradients)


@pytest.mark.parametrize("large_X", [False, True])
@pytest.mark.parametrize("name", LARGE)
def test_autocast_does_not_reach_transforms(name, large_X, request):
    """Nor the passes that a transform makes after the call."""
    if large_X:
        request.getfixturevalue("large")
    case = CASES[name]
    arguments = case.arguments()
    X = arguments.pop("X").float()
    T = normal(*X.shape, seed=3, dtype=torch.float32)

    def loss(X):
        return case.coefficients({**arguments, "X": X}, tol=None, on_fail="ignore").square().sum()

    def found(context):
        _, pullback = torch.func.vjp(loss, X)
        with context():
            one = torch.ones(())
            return grad(loss)(X), jvp(grad(loss), (X,), (T,))[1], jvp(loss, (X,), (T,))[1], pullback(one)[0]

    assert_equal(found(autocast), found(contextlib.nullcontext))


def newton(x, a):
    return a * x**3 - x - 2


@pytest.mark.parametrize("method", [il.implicit.Dense(), il.implicit.GMRES(), il.implicit.NormalCG()])
def test_autocast_does_not_reach_the_linear_solves_of_implicit_functions(method):
    """In float32, for solver, residual, linear solves and both passes; the residual has no products of its own."""

    @il.implicit.root(newton, linear_solve=method)
    def solved(a):
        x = torch.full_like(a, 1.5)
        for _ in range(30):
            x = x - newton(x, a) / (3 * a * x**2 - 1)
            _ = torch.eye(2) @ torch.eye(2)
            assert _.dtype == torch.float32
        return x

    def found(context):
        a = torch.tensor([0.8, 1.0, 1.3], requires_grad=True)
        with context():
            x = solved(a)
            (first,) = torch.autograd.grad(x.square().sum(), a, create_graph=True)
            (second,) = torch.autograd.grad(first.square().sum(), a)
        return x.detach(), first.detach(), second

    assert_equal(found(autocast), found(contextlib.nullcontext))


@pytest.mark.parametrize("name", LARGE)
def test_without_grad_mode_the_values_are_the_same_constants(name):
    arguments = {key: a.clone().requires_grad_(a.is_floating_point()) for key, a in CASES[name].arguments(2).items()}
    expected = CASES[name].coefficients(arguments)
    assert expected.requires_grad
    with torch.no_grad():
        found = CASES[name].coefficients(arguments)
        assert not found.requires_grad
        assert relative_error(found, expected) <= 1e-12
        with torch.enable_grad():
            assert CASES[name].coefficients(arguments).requires_grad


@pytest.mark.parametrize("name", LARGE)
def test_inference_mode_gives_ordinary_tensors_and_takes_its_own(name):
    """A result is of use in training, and so are features that were made in inference mode."""
    case = CASES[name]
    arguments = case.arguments(2)
    expected = case.coefficients(arguments)
    with torch.inference_mode():
        inside = {key: a.clone() for key, a in arguments.items()}
        found = case.coefficients(inside)
    assert not found.is_inference()
    assert not found.requires_grad
    assert relative_error(found, expected) <= 1e-12
    weight = torch.ones_like(found).requires_grad_()
    (weight * found).sum().backward()
    assert torch.equal(weight.grad, found)
    moving = next(iter(case.strengths))
    gradients = []
    for given in (arguments, inside):
        strength = arguments[moving].clone().requires_grad_()
        case.coefficients({**given, moving: strength}).square().sum().backward()
        gradients.append(strength.grad)
    assert relative_error(gradients[1], gradients[0]) <= 1e-9


def test_inference_mode_in_solutions_paths_and_implicit_functions():
    X, Y = normal(9, 6), normal(9, 2, seed=1)
    layer = il.GroupLasso(0.1, 0.1)
    with torch.inference_mode():
        before = layer.solve(X.clone(), Y)
        path = layer.path(X, Y, torch.tensor([0.2, 0.1], dtype=torch.float64))
        root = il.implicit.root(newton)(lambda a: torch.tensor(1.5213797068045676, dtype=torch.float64))(
            torch.ones((), dtype=torch.float64)
        )
    X.requires_grad_()
    again = layer.solve(X, Y, init=before)
    (again.coef * path.coef[1] * root * layer.l1_max(X, Y)).sum().backward()
    assert X.grad.isfinite().all()


def test_no_random_numbers_are_drawn():
    before = torch.get_rng_state()
    for case in CASES.values():
        numbers(case, False)
    assert torch.equal(torch.get_rng_state(), before)


# Threads.


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def svms(**options):
    X, y = normal(8, 25, 640).relu() / 25, labels(8, 25, k=5)
    return il.MulticlassSVM(0.01, 0.005, n_classes=5, **options), X, y


def seen_by_another():
    """The number of threads in a thread that starts now."""
    seen = []
    other = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
    other.start()
    other.join()
    return seen[0]


@pytest.fixture
def seen(monkeypatch):
    """The numbers of threads during solves: in the thread that solves, and in another that starts meanwhile."""
    numbers, original = [], solvers.solve

    def noted(*arguments):
        numbers.append((torch.get_num_threads(), seen_by_another()))
        return original(*arguments)

    monkeypatch.setattr(solvers, "solve", noted)
    return numbers


def skip_unless_settable():
    if not ambient.can_set_threads():
        pytest.skip("the OpenMP runtime of this build of torch is out of reach")


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize(("options", "expected"), [({}, 1), ({"threads": 1}, 1), ({"threads": 2}, 2)])
def test_small_problems_use_one_thread_and_nobody_else_does(options, expected, seen):
    """Eight machines took sixty times as long on two threads beside two busy processes (case 29)."""
    skip_unless_settable()
    layer, X, y = svms(**options)
    layer(X, y)
    assert seen == [(expected, 2)]
    assert torch.get_num_threads() == seen_by_another() == 2


@pytest.mark.usefixtures("two_threads")
def test_large_problems_use_all_threads(seen, monkeypatch):
    monkeypatch.setattr(ambient, "SMALL", 100)
    il.Ridge(0.1)(normal(10, 11), normal(10, 1))
    il.Ridge(0.1, threads=1)(normal(10, 11), normal(10, 1))
    il.Ridge(0.1)(normal(10, 10), normal(10, 1))
    assert [own for own, _ in seen] == [2, 1, 1]


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("order", [1, 2])
def test_derivatives_of_small_problems_use_one_thread(order, monkeypatch):
    """In every pass, whatever torch's own number is by then."""
    skip_unless_settable()
    seen, original = [], solve._attached

    def noted(*arguments, **options):
        seen.append((torch.get_num_threads(), seen_by_another()))
        return original(*arguments, **options)

    monkeypatch.setattr(solve, "_attached", noted)
    X, Y = normal(10, 11).requires_grad_(), normal(10, 2)
    (gradient,) = torch.autograd.grad(il.Ridge(0.1)(X, Y).square().sum(), X, create_graph=order == 2)
    if order == 2:
        torch.autograd.grad(gradient.square().sum(), X)
    assert set(seen) == {(1, 2)}
    assert torch.get_num_threads() == 2


@pytest.mark.usefixtures("two_threads")
def test_a_thread_that_computes_nothing_before_keeps_to_one():
    """Torch takes the number for a new thread from the process when it first computes there."""
    skip_unless_settable()
    seen = []

    def work():
        with ambient.threads(1):
            (torch.ones(10**6) + 1).sum()
            seen.append(torch.get_num_threads())
        seen.append(torch.get_num_threads())

    worker = threading.Thread(target=work)
    worker.start()
    worker.join()
    assert seen == [1, 2]


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("error", [KeyboardInterrupt, il.ConvergenceError])
def test_what_is_raised_leaves_everything_as_it_was(error, monkeypatch):
    def interrupted(*_):
        raise error

    monkeypatch.setattr(solvers, "solve", interrupted)
    layer, X, y = svms()
    with autocast(), pytest.raises(error):
        layer(X, y)
    with autocast():
        with pytest.raises(error):
            layer(X, y)
        assert torch.is_autocast_enabled("cpu")
    with torch.inference_mode():
        with pytest.raises(error):
            layer(X, y)
        assert torch.is_inference_mode_enabled()
    assert torch.get_num_threads() == 2
    assert torch.is_grad_enabled()
    assert not torch.is_autocast_enabled("cpu")


@pytest.mark.parametrize("threads", [0, -1, 1.0, True, "2"])
def test_a_number_of_threads_is_a_number(threads):
    with pytest.raises(ValueError, match=r"threads: given .*, expected an integer ≥ 1, or None"):
        il.Ridge(0.1, threads=threads)


def test_where_the_number_cannot_be_set_a_wish_is_refused_and_nothing_is_touched(monkeypatch, seen):
    monkeypatch.setattr(ambient, "_runtime", lambda: None)
    before = torch.get_num_threads()
    with pytest.raises(ValueError, match="threads: given 2, expected None: this build of torch"):
        il.Ridge(0.1, threads=2)
    il.Ridge(0.1)(normal(10, 11), normal(10, 1))
    assert seen == [(before, before)]


@variants
@pytest.mark.usefixtures("two_threads")
def test_numbers_do_not_depend_on_the_number_of_threads(case, fit_intercept):
    def found(threads):
        arguments = {k: a.clone().requires_grad_(k in case.moving) for k, a in case.arguments(2).items()}
        W = case.coefficients(arguments, fit_intercept=fit_intercept, threads=threads)
        C = normal(*W.shape, seed=5)
        return W.detach(), *torch.autograd.grad((W * C).sum(), [arguments[k] for k in case.moving])

    skip_unless_settable()
    for one, two in zip(found(1), found(2), strict=True):
        assert relative_error(two, one) <= 1e-12


def test_several_threads_solve_at_once():
    """Nothing is shared between calls."""
    names = list(CASES)
    expected = {name: numbers(CASES[name], False) for name in names}
    found, errors = {}, []

    def work(part):
        try:
            for name in part:
                found[name] = numbers(CASES[name], False)
        except Exception as error:
            errors.append(error)

    workers = [threading.Thread(target=work, args=(names[i::4],)) for i in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not errors
    for name in names:
        assert_equal(found[name], expected[name])


# Signals.

# A proof over many supports of pure noise: it goes on for hours.
LONG = """
    import signal, torch, implicitlayers as il
    torch.set_num_threads(2)
    {handler}
    generator = torch.Generator().manual_seed(0)
    X, Y = torch.randn(60, 60, generator=generator), torch.randn(60, 1, generator=generator)
    print("ready", flush=True)
    try:
        with torch.autocast("cpu"):
            il.SparseRidge(1e-3, 15, max_iter=10**6)(X, Y)
    except (KeyboardInterrupt, SystemExit) as error:
        print(type(error).__name__, torch.get_num_threads(), torch.is_autocast_enabled("cpu"), torch.is_grad_enabled())
"""
RAISING = "signal.signal(signal.SIGTERM, lambda *_: (_ for _ in ()).throw(SystemExit(3)))"


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize(
    ("sent", "handler", "answer", "code"),
    [
        (signal.SIGINT, "", "KeyboardInterrupt 2 False True", 0),
        (signal.SIGTERM, RAISING, "SystemExit 2 False True", 0),
        (signal.SIGTERM, "", "", -signal.SIGTERM),
    ],
    ids=["interrupt", "terminate, handled", "terminate"],
)
def test_a_long_solve_answers_signals(sent, handler, answer, code):
    """Between its steps, and leaves what is set as it was; a training step did not answer SIGTERM (case 32)."""
    script = textwrap.dedent(LONG.format(handler=handler))
    environment = {**os.environ, "OMP_NUM_THREADS": "2"}
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
    ) as process:
        assert process.stdout.readline() == "ready\n"
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(2)
        assert process.poll() is None
        process.send_signal(sent)
        out, _ = process.communicate(timeout=60)
    assert out.strip() == answer
    assert process.returncode == code
