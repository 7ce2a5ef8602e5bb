"""What serving costs beside the bare work, and what limits it: efficiency, latency, scaling, hand-over.

Everything runs on two cores, to which this process and all that it starts are pinned: the sidecar, Triton
and the load, which shares them. Efficiency is therefore a matter of CPU time and not of the clock: CPU time an
image of the bare loop (`bench.bare`: decode, transform and pack of the same code, on as many threads), divided
by that of the sidecar's whole tree of processes, its front and its workers apart. Triton's is not the
sidecar's and is told beside it. The targets hold for Infer, the sidecar's main job; Preprocess, whose reply
carries the tensor, is a case beside it.

Rounds alternate between what is compared, in alternating order, so that the machine's moods meet all of it.
Figures are medians of the rounds, and a ratio is the median of the rounds' ratios. `bench.scaling`,
`bench.latency` and `bench.handover` say how theirs are measured.
"""

from __future__ import annotations

from itertools import product
from typing import Any

from bench.handover import handover
from bench.latency import latency
from bench.photos import SIZES
from bench.report import at_least, at_most, report
from bench.rig import SIDES, rig
from bench.scaling import scaling
from bench.serving import serving

ROUNDS = 5
# Relative.
PROCESSES_WITHIN = 0.03


def run(rounds: int = ROUNDS) -> dict[str, Any]:
    """Measures everything, about five minutes. Raises CannotInstall where no Triton can run."""
    with rig(rounds) as running:
        cases = [serving(running, size, side, "Infer") for side, size in product(SIDES, SIZES)]
        cases.append(serving(running, "1920x1080", 224, "Preprocess"))
        cases += [latency(running, size) for size in SIZES]
        cases.append(scaling(running))
        cases += handover(running)
    return report("efficiency", cases, targets(cases))


def targets(cases: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What the cases must reach."""
    of = {case["case"]: case for case in cases}
    main, large = of["JPEG 1920x1080 to 224, Infer"], of["JPEG 4000x3000 to 224, Infer"]
    small, great = of["hand-over of 0.6 MB to Triton"], of["hand-over of 4.8 MB to Triton"]
    scaled = next((case["scaling"] for case in cases if "scaling" in case), None)
    return [
        at_least("efficiency at 1080p to 224", main["efficiency"], 0.85),
        at_least("efficiency at 12 MP to 224", large["efficiency"], 0.93),
        at_most(
            "CPU of worker processes ÷ threads, 1080p to 224",
            main["processes_over_threads"],
            1 + PROCESSES_WITHIN,
        ),
        *([] if scaled is None else [at_least("two workers on two cores ÷ one on one", scaled, 1.85)]),
        at_most("hand-over of 0.6 MB by shared memory, µs", small["shared_us"], 100),
        at_most("hand-over of 4.8 MB by shared memory, µs", great["shared_us"], 250),
        at_least("hand-over of 4.8 MB, raw ÷ shared memory", great["raw_over_shared"], 8),
    ]
