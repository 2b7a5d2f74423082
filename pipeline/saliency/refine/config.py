"""Settings of the whole way from hand-crafted maps to the student.

Where the defaults come from is said at each: [SRC] the code of DeepUSPS or of U2-Net, [OURS] a
choice of this project. docs/saliency_training.md has them in a table.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from pipeline.saliency.crf import CrfConfig
from pipeline.saliency.finish import MOST_LEAN
from pipeline.saliency.refine.network import NetworkConfig
from pipeline.saliency.refine.u2net import StudentNetworkConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class StartConfig:
    """A network that learns all hand-crafted maps at once; later ones start from it [OURS].

    DeepUSPS's networks start from weights that can segment, and a round of few epochs has little
    to teach one that cannot: random weights, or an encoder with a head of random weights. The loss
    is phase II's, with the thresholds and the effective batch of phase I's first round; half of the
    photos are mirrored.

    Raises:
        ValueError: a value out of range.
    """

    epochs: int = 0  # 0: there is none, as published
    learning_rate: float = 1e-3  # Adam
    poly_power: float = 0.9
    jitter: float = 0.3  # of brightness, contrast and colours, 0..1 (augment.py)

    def __post_init__(self) -> None:
        if self.epochs < 0:
            raise ValueError(f"start.epochs must not be negative, got {self.epochs}")
        _in_unit("start", self, ("jitter",))
        if not (self.learning_rate > 0 and self.poly_power >= 0):
            raise ValueError(
                "start: learning_rate must be above 0, poly_power not below; got "
                f"{self.learning_rate}, {self.poly_power}"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class PhaseOneConfig:
    """Refinement of each method's maps. Defaults: DeepUSPS as coded [SRC].

    Raises:
        ValueError: a value out of range.
    """

    epochs: int = 25  # of each round
    learning_rates: tuple[float, ...] = (1e-6, 2e-6, 5e-6)  # Adam; each makes a round
    poly_power: float = 0.9  # the rate falls as (1 - epoch / epochs) ** poly_power
    beta: float = 1.0  # of the F-measure, as coded: not squared
    thresholds: tuple[tuple[str, float], ...] = (
        *(("mc", 0.31), ("hs", 0.36), ("dsr", 0.23), ("rbd", 0.25)),
    )  # of each method's own maps, in the first round
    other_threshold: float = 0.3  # of a method that is not among them [OURS: about their mean]
    later_threshold: float = 0.5  # of history maps, from the second round on
    effective_batch: int = 20  # photos of one update, as intended in their code
    keep: float = 0.7  # of the history maps, each epoch; the rest is the new prediction
    correct_history: bool = False  # divide them by 1 - keep ** epochs, for they start at 0 [OURS]

    def __post_init__(self) -> None:
        _at_least_one("phase_one", self, ("epochs", "effective_batch"))
        _in_unit("phase_one", self, ("other_threshold", "later_threshold"))
        if not 0 <= self.keep < 1:  # at 1, history maps would stay empty
            raise ValueError(f"phase_one.keep must lie in 0..1, below 1, got {self.keep}")
        rates = bool(self.learning_rates) and all(rate > 0 for rate in self.learning_rates)
        if not (rates and self.beta > 0 and self.poly_power >= 0):
            raise ValueError(
                "phase_one: learning_rates and beta must be above 0, poly_power not below; got "
                f"{self.learning_rates}, {self.beta}, {self.poly_power}"
            )

    @property
    def rounds(self) -> int:
        return len(self.learning_rates)

    def threshold(self, method: str, round_number: int) -> float:
        """The threshold of a method's labels in a round, counted from 1."""
        if round_number > 1:
            return self.later_threshold
        return dict(self.thresholds).get(method, self.other_threshold)


@dataclass(frozen=True, kw_only=True, slots=True)
class PhaseTwoConfig:
    """One network on all refined sets. Defaults: DeepUSPS as coded [SRC].

    Raises:
        ValueError: a value out of range.
    """

    epochs: int = 200
    learning_rate: float = 1e-4  # Adam
    poly_power: float = 0.9  # the rate falls as (1 - epoch / epochs) ** poly_power
    beta: float = 4.0  # of the F-measure, as coded: not squared
    threshold: float = 0.5
    effective_batch: int = 100  # photos of one update, as intended in their code

    def __post_init__(self) -> None:
        _at_least_one("phase_two", self, ("epochs", "effective_batch"))
        _in_unit("phase_two", self, ("threshold",))
        if not (self.learning_rate > 0 and self.beta > 0 and self.poly_power >= 0):
            raise ValueError(
                "phase_two: learning_rate and beta must be above 0, poly_power not below; got "
                f"{self.learning_rate}, {self.beta}, {self.poly_power}"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class StudentConfig:
    """Distillation of the fused network into a small one.

    Raises:
        ValueError: a value out of range.
    """

    network: StudentNetworkConfig = field(default_factory=StudentNetworkConfig)
    epochs: int = 300  # [OURS]
    learning_rate: float = 1e-3  # Adam, U2-Net [SRC]
    poly_power: float = 0.9  # [OURS: U2-Net's rate stays]
    batch_size: int = 12  # U2-Net [SRC]
    crop: float = 0.9  # of the side is seen at least: U2-Net's 288 of 320 [SRC], stretched [OURS]
    jitter: float = 0.0  # of brightness, contrast and colours, 0..1 (augment.py); U2-Net: none
    methods_weight: float = 0.0  # of the start's loss on the methods' own maps, added [OURS]
    teacher_fusion: float = 0.0  # weight of the hand-crafted fusion in the teacher's maps [OURS]
    teacher_crf: bool = True  # the teacher's maps pass the CRF, as in DeepUSPS's test [SRC]
    teacher_cut: bool = False  # and are averaged with a cut, see finish.py [OURS]
    mirrored_test: bool = False  # masks are the mean of two passes, one of the mirrored picture
    lean_test: float = 0.0  # log odds that are added to the student's maps
    crf_test: bool = False  # masks pass the CRF
    cut_test: bool = False  # and are averaged with a cut

    def __post_init__(self) -> None:
        _at_least_one("student", self, ("epochs", "batch_size"))
        if self.batch_size < 2:
            raise ValueError(f"student.batch_size must be at least 2, got {self.batch_size}")
        _in_unit("student", self, ("jitter", "teacher_fusion"))
        if not abs(self.lean_test) <= MOST_LEAN:
            raise ValueError(
                f"student.lean_test must lie in -{MOST_LEAN:g}..{MOST_LEAN:g}, got {self.lean_test}"
            )
        if not 0 <= self.methods_weight < math.inf:
            raise ValueError(f"student.methods_weight must be 0 or more, got {self.methods_weight}")
        if not 0.5 <= self.crop <= 1:
            raise ValueError(f"student.crop must lie in 0.5..1, got {self.crop}")
        if not (self.learning_rate > 0 and self.poly_power >= 0):
            raise ValueError(
                "student: learning_rate must be above 0, poly_power not below; got "
                f"{self.learning_rate}, {self.poly_power}"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class RefineConfig:
    """Everything that a training of masks is set to.

    Raises:
        ValueError: a value out of range.
    """

    seed: int = 0
    map_side: int = 400  # pixels, the longer side at which hand-crafted methods see photos [OURS]
    batch_size: int = 10  # photos that networks hold at once; larger batches are accumulated
    network: NetworkConfig = field(default_factory=NetworkConfig)
    crf: CrfConfig = field(default_factory=CrfConfig)
    start: StartConfig = field(default_factory=StartConfig)
    phase_one: PhaseOneConfig = field(default_factory=PhaseOneConfig)
    phase_two: PhaseTwoConfig = field(default_factory=PhaseTwoConfig)
    student: StudentConfig = field(default_factory=StudentConfig)

    def __post_init__(self) -> None:
        if self.batch_size < 2:  # BatchNorm learns from batches
            raise ValueError(f"batch_size must be at least 2, got {self.batch_size}")
        if self.map_side < 32:
            raise ValueError(f"map_side must be at least 32 pixels, got {self.map_side}")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed must lie in 0..2**32-1, got {self.seed}")


def _at_least_one(group: str, config: object, names: tuple[str, ...]) -> None:
    for name in names:
        if getattr(config, name) < 1:
            raise ValueError(f"{group}.{name} must be at least 1, got {getattr(config, name)}")


def _in_unit(group: str, config: object, names: tuple[str, ...]) -> None:
    for name in names:
        if not 0 <= getattr(config, name) <= 1:
            raise ValueError(f"{group}.{name} must lie in 0..1, got {getattr(config, name)}")
