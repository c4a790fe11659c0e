"""Products by oneDNN are the products that PyTorch computes, whatever the layout; and models are left as they were."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from circuit.engine import matmul as products
from circuit.engine.matmul import batched, inner_products, linear, linear_layers, quick_linears
from tests.small_models import ARCHITECTURES, shared_model

TOKENS = torch.arange(12).view(2, 6)


@pytest.fixture(params=[True, False], ids=["oneDNN", "PyTorch"])
def onednn(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Tensor]]:
    """Decides for one of the two, and lists what oneDNN multiplied."""
    if request.param and not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        pytest.skip("this build of PyTorch has no oneDNN")
    monkeypatch.setattr(products, "onednn_is_quicker", lambda: request.param)
    monkeypatch.setattr(products, "_SMALL", 0)
    monkeypatch.setattr(products, "_SMALL_OF_MANY", 0)
    multiplied: list[Tensor] = []
    if request.param:
        real = torch.ops.mkldnn._linear_pointwise

        def listed(x: Tensor, weight: Tensor, bias: Tensor | None, *rest: Any) -> Tensor:
            multiplied.append(x)
            # with gaps in a weight it takes thousands of times as long, and gaps in a bias it ignores
            assert weight.is_contiguous() or weight.T.is_contiguous()
            assert bias is None or bias.is_contiguous()
            return real(x, weight, bias, *rest)

        monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", listed)
    yield multiplied
    # float64 goes by PyTorch either way; see the tests
    assert bool(multiplied) == request.param


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


LAYOUTS: dict[str, Callable[[], Tensor]] = {
    "dense": lambda: random(20, 32),
    "the other way round": lambda: random(32, 20).T,
    "a part of a joint projection": lambda: random(32, 60)[:, 20:40].T,
    "rows with gaps": lambda: random(20, 50)[:, 9:41],
    "columns with gaps": lambda: random(20, 64)[:, ::2],
}


@pytest.mark.parametrize("shape", [(7, 32), (3, 5, 32), (0, 32), (32,)])
@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_linear_map_and_its_gradient(onednn: list[Tensor], layout: str, biased: bool, shape: tuple[int, ...]) -> None:
    weight, bias = LAYOUTS[layout](), random(40)[::2] if biased else None
    x = random(*shape).requires_grad_()
    expected = torch.nn.functional.linear(x, weight, bias)
    towards = random(*expected.shape)
    found = linear(x, weight, bias)
    torch.testing.assert_close(found, expected)
    (gradient,) = torch.autograd.grad(found, x, towards)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected, x, towards)[0])


def test_rows_need_not_be_contiguous(onednn: list[Tensor]) -> None:
    x, weight = random(4, 8, 5, 8).transpose(1, 2).flatten(2)[..., 3:35], random(20, 32)
    torch.testing.assert_close(linear(x, weight), x @ weight.T)


@pytest.mark.parametrize("layout", [torch.Tensor.contiguous, lambda x: x.mT.contiguous().mT], ids=["rows", "columns"])
def test_many_small_products_go_to_the_memory_that_is_there(
    onednn: list[Tensor], layout: Callable[[Tensor], Tensor]
) -> None:
    x, weight = layout(random(9, 6, 4)), layout(random(9, 7, 4))
    memory = torch.full((9, 8, 7), torch.nan)
    batched(x, weight, memory[:, :6])
    torch.testing.assert_close(memory[:, :6], torch.einsum("bri,boi->bro", x, weight))
    assert memory[:, 6:].isnan().all()


@pytest.mark.parametrize("shape", [(), (4,)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 4e-3)])
def test_inner_products_are_in_float32(
    onednn: list[Tensor], shape: tuple[int, ...], dtype: torch.dtype, tolerance: float
) -> None:
    x, weight = random(*shape, 6, 500).to(dtype), random(*shape, 7, 500).to(dtype)
    found = inner_products(x, weight)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, x.float() @ weight.float().mT, rtol=tolerance, atol=tolerance)
    inner_products(x.float(), weight.float())


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_models_compute_the_same_and_are_as_before(onednn: list[Tensor], name: str) -> None:
    model = shared_model(name)
    plain = model.bridge.original_model
    layers = linear_layers(plain)
    before = plain(input_ids=TOKENS).logits
    with quick_linears(layers), torch.no_grad():
        during = plain(input_ids=TOKENS).logits
    torch.testing.assert_close(during, before)
    assert not any("forward" in vars(layer) for layer in layers)


def test_layers_that_multiply_in_a_way_of_their_own_are_left_alone(onednn: list[Tensor]) -> None:
    class Doubled(torch.nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            return 2 * super().forward(input)

    hooked, plain = torch.nn.Linear(4, 4), torch.nn.Linear(4, 4).requires_grad_(False)
    hooked.forward = lambda input: input  # type: ignore[method-assign]
    layers = linear_layers(torch.nn.ModuleList([Doubled(4, 4), hooked, plain]))
    assert layers == [plain]
    with quick_linears(layers):
        plain(random(2, 4))
    assert "forward" in vars(hooked)


def test_an_inner_dimension_of_nothing_gives_the_bias(onednn: list[Tensor]) -> None:
    torch.testing.assert_close(linear(random(3, 0), random(5, 0), random(5)), random(5).expand(3, 5))
    linear(random(3, 1), random(5, 1))


def test_second_derivatives_are_refused_rather_than_wrong(onednn: list[Tensor]) -> None:
    x = random(3, 4).requires_grad_()
    (first,) = torch.autograd.grad(linear(x, random(5, 4)).square().sum(), x, create_graph=True)
    if onednn:
        with pytest.raises(RuntimeError, match="differentiat"):
            torch.autograd.grad(first.sum(), x)


def test_products_in_bfloat16_on_the_cpu_are_given_weights_without_gaps(monkeypatch: pytest.MonkeyPatch) -> None:
    real, given = torch.bmm, []

    def listed(x: Tensor, y: Tensor, out: Tensor) -> Tensor:
        given.append(y)
        return real(x, y, out=out)

    monkeypatch.setattr(torch, "bmm", listed)
    x, weight = random(9, 6, 4).bfloat16(), random(7, 9, 4).transpose(0, 1).bfloat16()
    out = x.new_empty(9, 6, 7)
    batched(x, weight, out)
    assert all(y.is_contiguous() or y.mT.is_contiguous() for y in given)
    assert len(given) == 1
    torch.testing.assert_close(out, torch.einsum("bri,boi->bro", x.float(), weight.float()).bfloat16())


def test_what_is_small_is_left_to_the_library_that_begins_sooner(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "onednn_is_quicker", lambda: True)
    multiplied: list[torch.Size] = []

    def listed(x: Tensor, weight: Tensor, *rest: Any) -> Tensor:
        multiplied.append(x.shape)
        return x @ weight.T

    monkeypatch.setattr(products, "_onednn", listed)
    x, weight, out = random(2, 50, 64), random(2, 300, 64), torch.empty(2, 50, 300)
    linear(x[0, :9], weight[0])
    batched(x, weight, out)
    torch.testing.assert_close(out, x @ weight.mT)
    assert not multiplied
    linear(random(60, 64), weight[0])
    assert multiplied == [(60, 64)]
    batched(random(2, 300, 64), weight, torch.empty(2, 300, 300))
    assert multiplied == [(60, 64), (300, 64), (300, 64)]


def test_layers_are_as_before_after_an_error(onednn: list[Tensor]) -> None:
    layer = torch.nn.Linear(4, 4).requires_grad_(False)

    def fail() -> None:
        with quick_linears([layer]):
            layer(random(2, 4))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert "forward" not in vars(layer)


def test_conv1d_keeps_its_weight_the_other_way_round(onednn: list[Tensor]) -> None:
    layer, x = Conv1D(6, 4), random(2, 3, 4)
    expected = layer(x)
    with quick_linears([layer]), torch.no_grad():
        torch.testing.assert_close(layer(x), expected)


def test_weights_that_are_trained_get_their_gradients(onednn: list[Tensor]) -> None:
    layer = torch.nn.Linear(4, 3)
    with quick_linears([layer]):
        layer(random(5, 4)).sum().backward()
    assert layer.weight.grad is not None
    torch.testing.assert_close(layer.weight.grad, random(5, 4).sum(0).expand(3, 4))
    linear(random(5, 4), layer.weight.detach())  # without gradients it is oneDNN's again


def test_other_precisions_are_left_to_pytorch(onednn: list[Tensor]) -> None:
    x, weight = random(3, 4).double(), random(5, 4).double()
    assert torch.equal(linear(x, weight), torch.nn.functional.linear(x, weight))
    assert torch.equal(linear(x.bfloat16(), weight.bfloat16()), x.bfloat16() @ weight.bfloat16().T)
    assert not onednn
    linear(x.float(), weight.float())


@pytest.mark.parametrize(
    ("capability", "processor", "quicker"),
    [
        ("AVX512", "vendor_id : AuthenticAMD", True),
        ("AVX2", "vendor_id : AuthenticAMD", False),
        ("AVX512", "vendor_id : GenuineIntel", False),
        ("DEFAULT", "", False),
    ],
)
def test_onednn_is_used_where_mkl_leaves_vector_units_idle(
    monkeypatch: pytest.MonkeyPatch, capability: str, processor: str, quicker: bool
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    monkeypatch.setattr(products, "_processor", lambda: processor)
    there = hasattr(torch.ops.mkldnn, "_linear_pointwise")
    assert products.onednn_is_quicker.__wrapped__() == (quicker and there)
