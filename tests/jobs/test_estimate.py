"""What is said before a run: arithmetic on a measured pace, and near what the run then takes."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest

from circuit.common.errors import OptionError
from circuit.edges.method import AblationType, Method, Path
from circuit.edges.shape import ModelShape, bytes_per_prompt, peak_bytes, prompts_at_once
from circuit.jobs.estimate import Line, Pace, Work
from circuit.prompts.presets import PRESETS
from circuit.runs.config import RunConfig

SHAPE = ModelShape(
    n_layers=30, n_heads=9, n_kv_heads=3, d_model=576, d_mlp=1536, d_vocab=49152, n_edges=70651, element=4, device="cpu"
)
PACE = Pace(SHAPE, "cpu", 20_000_000_000, forward=Line(0.1, 0.001), step=Line(0.2, 0.004))
WORK = Work((10,) * 40, n_points=3, batch_size=8)


def test_seconds_are_those_of_all_passes() -> None:
    passes = 5 * (0.1 + 80 * 0.001) + 3 * 5 * (0.2 + 80 * 0.004)  # the corrupt prompts, and three points
    baseline = 2 * (2 * (0.1 + 160 * 0.001) + (0.1 + 80 * 0.001))
    assert PACE.estimate(WORK).seconds == pytest.approx(passes + baseline)
    assert PACE.estimate(WORK, workers=2).seconds == pytest.approx((passes + baseline) / 2)


@pytest.mark.parametrize(
    ("ablation", "passes"),
    [(AblationType.ZERO, 0), (AblationType.RESAMPLE, 1), (AblationType.BATCH_ALL_TOK_MEAN, 1),
     (AblationType.TOKENWISE_MEAN_CLEAN, 1), (AblationType.TOKENWISE_MEAN_CLEAN_AND_CORRUPT, 2)],
    ids=str,
)  # fmt: skip
def test_an_ablation_costs_its_passes(ablation: AblationType, passes: int) -> None:
    zero = PACE.estimate(replace(WORK, ablation_type=AblationType.ZERO)).seconds
    more = PACE.estimate(replace(WORK, ablation_type=ablation)).seconds - zero
    assert more == pytest.approx(passes * 5 * (0.1 + 80 * 0.001))


def test_a_path_costs_its_passes_and_one_over_the_clean_prompts() -> None:
    def steps(path: Path) -> float:
        return PACE.estimate(replace(WORK, path=path)).seconds - PACE.estimate(WORK).seconds

    clean = 5 * (0.1 + 80 * 0.001)
    assert steps("inputs") == pytest.approx(clean)
    a_point = 5 * (0.2 + 80 * 0.004)
    assert steps("activations") == pytest.approx(clean + 3 * 2 * PACE.shape.n_layers * a_point)


def test_padding_costs_as_much_as_tokens() -> None:
    assert Work((2, 10, 3), 1).batches(2) == [20, 3]


def test_a_line_goes_through_what_was_measured_and_never_falls() -> None:
    line = Line.through((10, 2.0), (110, 4.0))
    assert line.seconds(10) == pytest.approx(2.0)
    assert line.seconds(210) == pytest.approx(6.0)
    noisy = Line.through((10, 2.0), (110, 1.0))
    assert noisy.seconds(1000) == pytest.approx(2.0)


def test_the_work_of_a_run_leaves_out_what_is_held_out() -> None:
    config = RunConfig("teaching", PRESETS["ioi"].prompts, Method(mask_val=None, integrated_grad_samples=5))
    assert Work.of(config, [7] * 24) == Work((7,) * 24, 6)
    assert len(Work.of(replace(config, held_out=0.25), [7] * 24).lengths) == 18
    with pytest.raises(OptionError, match="no prompts"):
        Work.of(config, [])


def test_the_batch_size_is_the_one_that_the_engine_would_choose() -> None:
    work = replace(WORK, batch_size=None)
    assert PACE.estimate(work).batch_size == prompts_at_once(SHAPE, 10, PACE.free) == 25
    tight = replace(PACE, free=6 * bytes_per_prompt(SHAPE, 10))
    assert tight.estimate(work).batch_size == 3


def test_memory_grows_with_the_batch_the_prompts_and_positions_apart() -> None:
    peak = peak_bytes(SHAPE, 8, 14)
    assert peak < peak_bytes(SHAPE, 16, 14) < peak_bytes(SHAPE, 16, 28)
    assert peak_bytes(SHAPE, 8, 14, apart=True) - peak == 13 * 24 * SHAPE.n_edges


@pytest.mark.parametrize(
    ("free", "work", "advice"),
    [
        (20e9, WORK, ""),
        (peak_bytes(SHAPE, 4, 10), WORK, "choose a batch size of 4 or less"),
        (peak_bytes(SHAPE, 1, 10), replace(WORK, apart=True), "add the token positions up"),
        (1e6, WORK, "Not even one prompt of 10 tokens will fit"),
        (20e9, replace(WORK, n_points=500), "fewer samples"),
    ],
)
def test_advice_is_given_where_it_is_too_much(free: float, work: Work, advice: str) -> None:
    estimate = replace(PACE, free=int(free)).estimate(work)
    assert (estimate.advice == "") == (advice == "")
    assert advice in estimate.advice
    assert estimate.fits == (free == 20e9)
    assert ("that were free when this model was measured" in estimate.advice) == advice.startswith(("choose", "add"))


def test_it_is_said_in_words() -> None:
    assert PACE.estimate(WORK).words == "About 10 s on cpu, and at most 0.2 GB of memory"


def test_a_run_puts_the_pace_right() -> None:
    estimated = PACE.estimate(WORK).seconds
    assert PACE.corrected(estimated, 3 * estimated).estimate(WORK).seconds == pytest.approx(3 * estimated)
    assert PACE.corrected(0.0, 1.0) == PACE


def test_the_web_process_needs_no_torch_for_it() -> None:
    text = "import sys, circuit.jobs.calibrate, circuit.jobs.shards, circuit.jobs.sweep; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", text], capture_output=True, text=True).stdout.strip() == "False"
