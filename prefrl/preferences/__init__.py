"""Who answers (teachers), what is believed (preference models), and how well it explains people."""

from .asking import ask_teacher, true_valuation
from .likelihood import cross_validated_cross_entropy, fit_scale
from .models import (
    DeterministicRegret,
    Expanded,
    PartialReturn,
    PreferenceModel,
    Regret,
    StepwiseModel,
    Valuation,
    valuate,
)
from .teachers import Teacher, TeacherKind, teacher_of_kind

__all__ = [
    "DeterministicRegret",
    "Expanded",
    "PartialReturn",
    "PreferenceModel",
    "Regret",
    "StepwiseModel",
    "Teacher",
    "TeacherKind",
    "Valuation",
    "ask_teacher",
    "cross_validated_cross_entropy",
    "fit_scale",
    "teacher_of_kind",
    "true_valuation",
    "valuate",
]
