"""How Sphinx builds the site: ``make docs``."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

import prefrl

project = "prefrl"
author = "The prefrl maintainers"
version = release = prefrl.__version__
html_title = "prefrl"

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "plain_docstrings",
    "settings_table",
    "reference_pages",
]
exclude_patterns = ["_build", "_ext", "_static"]

# Pages are Markdown that a code host shows as well: its anchors, its maths.
myst_enable_extensions = ["dollarmath", "html_image"]
myst_heading_anchors = 4

# Docstrings are Google's. Members stand in the order in which a reader meets them in the file.
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
autosummary_generate = False
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_custom_sections = [("Settings", "params_style")]
python_maximum_signature_line_length = 88
python_use_unqualified_type_names = True

# Nothing is loaded from elsewhere: fonts are the system's, MathJax lies in _static.
html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sourcelink = False
mathjax_path = "mathjax/tex-chtml.js"
html_theme_options = {"navigation_with_keys": True}
copybutton_prompt_text = "$ "
