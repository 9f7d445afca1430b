"""Who answers (teachers), what is believed (preference models), and how well it explains people."""

from .asking import ReturnTeacher, ask_teacher, true_valuation
from .label_tables import label_segments, read_label_table
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
from .queries import QueryKind, choose_queries
from .reward_model import RewardModel, RewardModelConfig
from .teachers import Answerer, AskFunction, Questions, Teacher, TeacherKind, teacher_of_kind

__all__ = [
    "Answerer",
    "AskFunction",
    "DeterministicRegret",
    "Expanded",
    "PartialReturn",
    "PreferenceModel",
    "QueryKind",
    "Questions",
    "Regret",
    "ReturnTeacher",
    "RewardModel",
    "RewardModelConfig",
    "StepwiseModel",
    "Teacher",
    "TeacherKind",
    "Valuation",
    "ask_teacher",
    "choose_queries",
    "cross_validated_cross_entropy",
    "fit_scale",
    "label_segments",
    "read_label_table",
    "teacher_of_kind",
    "true_valuation",
    "valuate",
]
