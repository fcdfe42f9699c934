"""Every option that is not a method's own: the sections of alignkit.toml as pydantic models. No torch here.

An option of the command line is its key with hyphens; `config_file.py` reads the file and lays options over it.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from alignkit.options import IN_HELP, NO_FLAG, Options

DEFAULT_MODEL = "Qwen/Qwen2.5-0.5B"
DEFAULT_DATA = "HuggingFaceH4/ultrafeedback_binarized"


def _names(given: list[str]) -> list[str]:
    """Names that stand in a list, or in one text with commas."""
    names = [name.strip() for text in given for name in text.split(",")]
    if not all(names):
        raise ValueError("a name is empty")
    return names


class Section(Options):
    """One table of alignkit.toml."""


class ModelSection(Section):
    """[model]: what is trained, and how text becomes its tokens."""

    model: str = Field(
        DEFAULT_MODEL,
        description="a run's name or folder, a model folder, or a hub name (name@revision)",
        json_schema_extra=IN_HELP,
    )
    chat_template: str | None = Field(None, description="a Jinja file, or chatml; default: the tokenizer's own")
    system: str | None = Field(
        None, description="system message put before conversations that have none", json_schema_extra=NO_FLAG
    )
    template_kwargs: dict[str, bool | int | float | str] = Field(
        default_factory=dict, description="values passed to the chat template, KEY=VALUE"
    )
    precision: Literal["auto", "bf16", "fp32"] = Field(
        "auto",
        description="fp32 weights always; bf16: autocast; auto: bf16 where the device computes it fast, else fp32",
    )
    lora_rank: int | None = Field(
        None, ge=1, description="train a LoRA adapter of this rank; default: all weights", json_schema_extra=IN_HELP
    )
    lora_alpha: int | None = Field(
        None, ge=1, description="the adapter's product is scaled by alpha / rank; default: 2 x rank"
    )
    lora_dropout: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="share of the adapter's inputs that training drops; for sft, which compares no log-probs",
    )
    lora_targets: list[str] = Field(
        default_factory=lambda: ["all-linear"],
        description="names of the layers that have an adapter, A,B as q_proj,v_proj, or all-linear: all but the head",
    )
    attention: Literal["auto", "tree", "plain"] = Field(
        "auto",
        description="tree computes a prompt once for its completions; plain is the model's own, one row each",
        json_schema_extra=NO_FLAG,
    )
    quantize: Literal["4bit"] | None = Field(
        None, description="hold the base's linear layers in 4 bits (NF4) under a LoRA adapter; extra bitsandbytes"
    )
    gradient_checkpointing: bool = Field(
        False,
        description="keep each layer's input alone and compute the layer again going backward: less memory, slower",
    )
    micro_batch_tokens: int | None = Field(
        None,
        ge=8,
        description="tokens computed at once, in rows of prompts and completions; a longer pair has its own; fewer "
        "take less memory and train the same; default: what the plan finds room for on a GPU, 1,024 on a CPU",
    )
    compile: bool = Field(
        True,
        description="compile the layers by torch.compile, where they compute trees on CUDA; 23 s once a run on an H100",
    )
    reference: Literal["cached", "online"] | None = Field(
        None,
        description="where the frozen reference's log-probs come from: computed once and kept on disk (cached; default "
        "where rows are known beforehand), or in every step (online; always so for samples)",
        json_schema_extra=NO_FLAG,
    )

    @field_validator("lora_targets")
    @classmethod
    def _each(cls, given: list[str]) -> list[str]:
        return _names(given)


class DataSection(Section):
    """[data]: the rows, and what is done with those that do not fit."""

    data: str = Field(
        DEFAULT_DATA,
        description="a file, a folder, a plugin's data set, or hub-name:split; or several, A,B or A=WEIGHT,B=WEIGHT",
        json_schema_extra=IN_HELP,
    )
    columns: dict[str, str] = Field(default_factory=dict, description="our name = the file's name, for foreign columns")
    ignore_fields: list[str] = Field(
        default_factory=list,
        description="fields to leave unread: NAME of rows, message.NAME of messages; A,B or repeatable",
    )
    split: str | None = Field(
        None,
        description="validation rows: first-N, a share such as 0.05, or a file; default: a seeded 5 % of the prompts",
    )
    exclude: str | None = Field(
        None,
        description="rows whose prompts neither train nor validate, such as those that will judge: a file, or a "
        "plugin's data set; --columns is not for it",
        json_schema_extra=NO_FLAG,
    )
    duplicates: Literal["keep", "drop"] = Field(
        "keep",
        description="what is done with rows that repeat an earlier one exactly; they are counted either way",
        json_schema_extra=NO_FLAG,
    )
    limit: int | None = Field(None, ge=1, description="use only this many rows, from the top")
    max_length: int | None = Field(
        None,
        ge=8,
        description="longest prompt + completion, in tokens; default: the model's context, at most 2,048",
        json_schema_extra=IN_HELP,
    )
    truncation: Literal["cut-completion", "drop-row", "cut-old-turns", "stop"] | None = Field(
        None,
        description="what is done with longer rows; default: stop when more than 1 % are longer, else cut-completion",
    )
    max_skipped: float = Field(
        0.01, ge=0, le=1, description="stop when more than this share of the rows cannot be used"
    )
    train_on: Literal["last", "all-assistant"] | None = Field(
        None, description="score the last answer (default for preference rows) or all assistant turns (conversations)"
    )

    @field_validator("ignore_fields")
    @classmethod
    def _each(cls, given: list[str]) -> list[str]:
        return _names(given)

    @property
    def read_as(self) -> dict[str, str]:
        """`columns`, in which a field that is ignored is no name of the file's."""
        return dict.fromkeys(self.ignore_fields, "") | self.columns


class RolloutsSection(Section):
    """[rollouts]: what draws completions in training, and what rewards them."""

    sampler: str = Field(
        "transformers", description="what generates: transformers, vllm (needs that extra), or a plugin's name"
    )
    vllm_memory: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="share of the GPU's memory that --sampler vllm takes while it draws; default: what the plan leaves",
    )
    servers: list[str] = Field(
        default_factory=list,
        description="addresses of the servers of --sampler vllm-server; repeatable",
        json_schema_extra=NO_FLAG,
    )
    server_weights: str | None = Field(
        None,
        description="how weights reach those servers: a folder that they see too (default: a temporary one of this "
        "machine), or vllm:nccl, from GPU to GPU",
        json_schema_extra=NO_FLAG,
    )
    reward: list[str] = Field(
        default_factory=list,
        description="a judge's name, a reward run or folder, or FILE.py:function, with =WEIGHT; repeatable",
        json_schema_extra=IN_HELP,
    )
    max_missing: float = Field(
        0.2,
        ge=0,
        le=1,
        description="stop when more than this share of a step's scores is missing",
        json_schema_extra=NO_FLAG,
    )
    generate_timeout_s: float = Field(
        3600,
        gt=0,
        description="longest that drawing a step's completions may take, in seconds; then save and stop",
        json_schema_extra=NO_FLAG,
    )
    score_timeout_s: float = Field(
        3600, gt=0, description="the same for scoring them, in seconds", json_schema_extra=NO_FLAG
    )
    sync_timeout_s: float = Field(
        600, gt=0, description="the same for handing weights to the sampler, in seconds", json_schema_extra=NO_FLAG
    )
    train_timeout_s: float = Field(
        3600, gt=0, description="the same for one optimizer step, in seconds", json_schema_extra=NO_FLAG
    )

    @property
    def timeouts_s(self) -> dict[str, float]:
        """Seconds by phase of a step; what a resumed run may change."""
        return {name.removesuffix("_timeout_s"): getattr(self, name) for name in TIMEOUTS}


TIMEOUTS = tuple(name for name in RolloutsSection.model_fields if name.endswith("_timeout_s"))


class JudgeSection(Section):
    """[judge]: what decides whether a model is better."""

    judge: str = Field("auto", description="a judge's name, a reward run or folder, FILE.py:function, or auto")
    vs: str | None = Field(None, description="the model to compare with")
    num_prompts: int | None = Field(
        None, ge=1, description="prompts judged; default: all validation prompts, at most what finds 5 points (874)"
    )
    margin: float = Field(3.0, ge=0, le=50, description="difference from 50 % that matters, in points")
    difference: float = Field(
        5.0,
        gt=0,
        lt=50,
        description="what is looked for, in points from 50 %; prompts that find it in fewer than 20 of 100 cases make "
        "no verdict, only rates",
    )
    cluster: str | None = Field(
        None, description="column whose prompts are resampled together, or none; default: template or source, if named"
    )
    early: bool | None = Field(
        None, description="judge in five rounds and stop as soon as it is settled; default: where the judge is paid"
    )
    guard: list[str] = Field(
        default_factory=list,
        description="DATA[:rules|perplexity|judge]: where the model must not be worse, by what; rules where all rows "
        "carry some; repeatable",
    )
    guard_margin: float | None = Field(
        None,
        gt=0,
        lt=100,
        description="loss on a guard that is tolerated, in points; default: what its prompts find in 80 of 100 cases",
    )
    rejudge: int = Field(
        0, ge=0, le=100, description="score the same answers so many times more, to measure the judge's noise"
    )
    temperature: float = Field(
        0.0, ge=0, description="temperature of the judged completions; 0 takes the likeliest token"
    )
    top_p: float = Field(1.0, gt=0, le=1, description="top-p of the judged completions")
    num_beams: int = Field(
        1, ge=1, le=64, description="beam search of this width in place of sampling; the paper's is 4"
    )
    length_penalty: float = Field(
        0.9, ge=0, description="of beam search: sum of log p / tokens generated ^ this; above 0 favours long ones"
    )
    max_new_tokens: int = Field(256, ge=1, le=131_072, description="longest judged completion, in tokens")
    seed: int = Field(0, ge=0, description="seed of prompts, samples and resampling")
    strip_thinking: bool = Field(
        True, description="hide think blocks from judges, lengths and BLEU; count their tokens"
    )


class TournamentSection(Section):
    """[tournament]: what `alignkit tournament` compares; its entrants are [entrants.NAME] (alignkit/tournaments)."""

    seeds: int | list[int] = Field(1, description="training seeds: so many (1, 2, ...), or these")
    vs: list[str] = Field(
        default_factory=lambda: ["base", "start"],
        min_length=1,
        description="opponents: an entrant, a model, or start (each entrant's own); the first is the headline's",
    )
    steps: int | None = Field(None, ge=1, description="optimizer steps of every run")
    tokens: float | None = Field(
        None, gt=0, description="tokens that every run computes, samples included; steps follow from measured ones"
    )
    minutes: float | None = Field(
        None, gt=0, description="minutes of every run, sampling included; steps follow from measured ones"
    )
    test: str | None = Field(None, description="data to judge on; default: prompts of --data, kept out of training")
    second: str | None = Field(
        None, description="a second judge's opinion: an entrant that is a reward model, or a judge"
    )
    second_prompts: int = Field(100, ge=1, description="prompts that the second judge reads")
    off_task: str | None = Field(None, description="data to answer beside, measured and not judged")
    off_task_prompts: int = Field(64, ge=1, description="prompts of these; their guard needs 20 clusters")

    @field_validator("seeds")
    @classmethod
    def _some(cls, given: int | list[int]) -> int | list[int]:
        if given in (0, []) or min(given if isinstance(given, list) else [given]) < 0:
            raise ValueError("at least one seed is needed, and none below 0")
        return given


class RunOptions(Section):
    """Options of a single `alignkit train`, beside its configuration. Not in alignkit.toml."""

    out: str | None = Field(None, description="the run's folder; default: runs/METHOD-N", json_schema_extra=IN_HELP)
    preset: str | None = Field(
        None,
        description="options that the method sets together, over alignkit.toml: paper (the paper's numbers as printed) "
        "or letter (its equations in their own units)",
        json_schema_extra=IN_HELP,
    )
    resume: bool = Field(False, description="go on with an unfinished run", json_schema_extra=IN_HELP)
    more_steps: int | None = Field(
        None,
        ge=1,
        description="with --resume RUN: train a finished run this many optimizer steps further; the learning rate "
        "warms up and falls again",
    )
    plan: bool = Field(
        False, description="print the memory and disk the run needs, and exit", json_schema_extra=IN_HELP
    )
    track: list[str] = Field(default_factory=list, description="trackers beside metrics.jsonl; repeatable")
    yes: bool = Field(False, description="send a paid reward's requests without asking")
    allow_changed: list[str] = Field(
        default_factory=list, description="resume although this configuration key changed; repeatable"
    )


SECTIONS: dict[str, type[Section]] = {
    "model": ModelSection,
    "data": DataSection,
    "rollouts": RolloutsSection,
    "judge": JudgeSection,
}
