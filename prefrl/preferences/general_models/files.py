"""General preference models by name, and from their files."""

from __future__ import annotations

import os

import torch

from prefrl.config import from_json
from prefrl.data.files.tensor_file import read_tensor_file
from prefrl.reading.errors import reading
from prefrl.reading.text import parse_json

from .base import FILE_FORMAT, GeneralModel
from .bradley_terry import BradleyTerry
from .comparisons import ModelSizes, check_user_names
from .gpm import GPM
from .pal import PAL
from .thurstone import Thurstone

GENERAL_MODELS: dict[str, type[GeneralModel]] = {
    model.name: model for model in (BradleyTerry, Thurstone, GPM, PAL)
}
"""General preference models by name."""


def load_general_model(path: str | os.PathLike[str], *, device: torch.device | str = "cpu") -> GeneralModel:
    """Read a model that :meth:`GeneralModel.save` wrote.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged, or no such model.
    """
    content = read_tensor_file(path, "preference model")
    with reading(path, "preference model"):
        header = parse_json(content["general_model"])
        if header["format"] != FILE_FORMAT:
            raise ValueError(f"it has format {header['format']}; this version reads {FILE_FORMAT}")
        kind = GENERAL_MODELS.get(header["model"])
        if kind is None:
            raise ValueError(f"it holds a model {header['model']!r}; known are {list(GENERAL_MODELS)}")
        model = kind(from_json(kind.config_class, header["config"]), seed=header["seed"])
        parameters = {name: value.to(device) for name, value in content["parameters"].items()}
        model.take(parameters, from_json(ModelSizes, header["sizes"]))
        names = header.get("user_names")  # older files have none
        model.user_names = None if names is None else tuple(names)
        check_user_names(model.user_names, model.sizes.num_users)
    return model
