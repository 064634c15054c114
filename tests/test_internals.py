"""The private functions of torch and Pyro that the library uses exist and do what the library expects.

Where a test fails after an upgrade, adapt ``pyroscvi/torch_internals.py`` or ``pyroscvi/pyro_internals.py``.
"""

import ast
from pathlib import Path

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import nn

from pyroscvi import pyro_internals, torch_internals

ROOT = Path(__file__).parent.parent
MOVED = "a private thing of {} has changed: adapt pyroscvi/{}"


def moved(library):
    return MOVED.format(library, f"{library.lower()}_internals.py")


def test_handlers_are_on_pyros_stack():
    with poutine.block() as handler:
        assert [handler] == pyro_internals.HANDLERS, moved("Pyro")
    assert pyro_internals.HANDLERS == [], moved("Pyro")


def test_open_plates_are_in_pyros_allocator():
    with pyro.plate("cells", 3):
        assert pyro_internals.PLATES == ["cells"], moved("Pyro")
    assert pyro_internals.PLATES == [], moved("Pyro")


def test_pyro_has_four_validation_flags():
    def flags():
        return [module._VALIDATION_ENABLED for module in pyro_internals.FLAGS] + [
            torch_internals.Distribution._validate_args
        ]

    with pyro.validation_enabled(False):
        assert flags() == [False] * 4, moved("Pyro")
    assert flags() == [True] * 4, moved("Pyro")


def test_an_enumerated_site_knows_its_dimension():
    def model():
        pyro.sample("k", dist.Categorical(torch.ones(3)), infer={"enumerate": "parallel"})
        pyro.sample("z", dist.Normal(0.0, 1.0))

    nodes = poutine.trace(poutine.enum(model, first_available_dim=-2)).get_trace().nodes
    assert pyro_internals.enumerated_dim(nodes["k"]) == -2, moved("Pyro")
    assert nodes["k"]["value"].shape == (3, 1)
    assert pyro_internals.enumerated_dim(nodes["z"]) is None


def test_gradients_are_switched_by_a_function_of_c():
    torch_internals.set_gradients(False)
    off = not torch.is_grad_enabled()
    torch_internals.set_gradients(True)
    assert off, moved("torch")
    assert torch.is_grad_enabled(), moved("torch")
    assert not hasattr(torch_internals.set_gradients, "__code__"), "it is a Python function now, which Ctrl-C can enter"


def test_standard_gamma_draws_as_gamma_does():
    theta = torch.tensor([0.5, 2.0, 30.0])
    torch.manual_seed(3)
    expected = torch.distributions.Gamma(theta, 1.0).sample()
    torch.manual_seed(3)
    assert torch.equal(torch_internals.standard_gamma(theta), expected), moved("torch")


def test_a_step_is_recorded_with_an_operator_replaced():
    seen = []

    def step(x):
        seen.append(torch_internals.recording())
        return x.exp()

    table = {torch.ops.aten.exp.default: lambda x: x + 1}
    graph = torch_internals.recorded(step, table, [torch.zeros(2)])
    assert seen == [True], moved("torch")
    assert not torch_internals.recording()
    assert graph(torch.ones(2)).tolist() == [2.0, 2.0], moved("torch")


def test_compilers_are_where_they_were():
    from torch._inductor import compile  # noqa: F401  # what compiles is tested in test_captured.py and test_native.py
    from torch._inductor.codecache import CppCodeCache

    assert callable(CppCodeCache.load), moved("torch")
    torch_internals.vector_instructions()


def test_a_module_keeps_its_state_when_it_changes_class():
    class Other(nn.BatchNorm1d):
        pass

    norm = nn.BatchNorm1d(3)
    before = {name: t.data_ptr() for name, t in norm.state_dict().items()}
    torch_internals.set_class(norm, Other)
    assert type(norm) is Other
    assert {name: t.data_ptr() for name, t in norm.state_dict().items()} == before, moved("torch")


def test_the_factors_of_a_low_rank_covariance():
    W, D = torch.randn(4, 3, 2), torch.rand(4, 3) + 0.1
    q = dist.LowRankMultivariateNormal(torch.zeros(4, 3), W, D)
    factors = torch_internals.covariance_factors(q)
    assert torch.equal(factors[0], W), moved("torch")
    assert torch.equal(factors[1], D), moved("torch")


SOURCES = [path for room in ("pyroscvi", "models", "guides") for path in (ROOT / room).rglob("*.py")]
TREES = {path: ast.parse(path.read_text()) for path in SOURCES if not path.name.endswith("_internals.py")}
PUBLIC = {"_asdict", "_replace", "_extended_shape"}  # of named tuples; for subclasses of torch's Distribution


def private(name):
    return name.startswith("_") and not name.startswith("__")


def test_private_things_of_torch_and_pyro_are_used_nowhere_else():
    own = {node.name for tree in TREES.values() for node in ast.walk(tree) if isinstance(node, DEFINITION)}
    own |= {node.target.id for tree in TREES.values() for node in ast.walk(tree) if _is_field(node)}
    own |= {node.attr for tree in TREES.values() for node in ast.walk(tree) if _is_stored_in_self(node)}
    for path, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in ("torch", "pyro"):
                names = [*node.module.split("."), *(alias.name for alias in node.names)]
                assert not any(private(name) or name == "proxy_tensor" for name in names), (path, ast.unparse(node))
            if isinstance(node, ast.Attribute) and private(node.attr):
                assert node.attr in own | PUBLIC, (path, ast.unparse(node))
            if isinstance(node, ast.Attribute) and node.attr == "__class__":
                assert not isinstance(node.ctx, ast.Store), (path, ast.unparse(node))


DEFINITION = ast.FunctionDef | ast.ClassDef


def _is_field(node):
    return isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)


def _is_stored_in_self(node):
    stored = isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)
    return stored and isinstance(node.value, ast.Name) and node.value.id == "self"
