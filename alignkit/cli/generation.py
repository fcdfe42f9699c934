"""The options that everything which generates text takes; defaults come from [judge], [model], [data], [rollouts]."""

from __future__ import annotations

from alignkit.cli.options import Group
from alignkit.config.settings import DataSection, JudgeSection, ModelSection, RolloutsSection

SAMPLING = Group(
    "Sampling", JudgeSection, ("temperature", "top_p", "num_beams", "length_penalty", "max_new_tokens", "seed")
)
SAMPLER = Group("Sampling", RolloutsSection, ("sampler",))
TEXT = Group("Model", ModelSection, ("chat_template", "system", "template_kwargs", "precision"))
ROWS = Group("Data", DataSection, ("data", "columns", "split", "limit", "max_length", "truncation", "train_on"))
NUM_PROMPTS = Group("Data", JudgeSection, ("num_prompts",))
THINKING = Group("Sampling", JudgeSection, ("strip_thinking",))
