"""The one table of fields: what is done with each field of a row and of a message, each role, each part of a content.

A `Field` is a group of names that mean one thing. Its `use` is what is done with it:

    READ         read as `says`; the code that reads it asks for the group by its first name, `names(SHAPE, "label")`
    HARMLESS     declared to change nothing of what is trained; not read
    REFUSED      it would change what is trained and is not read: an error names it, says why (`says`), what to do
                 (`instead`), and how to leave it unread
    BESIDE_PAIR  refused in a row that has both `chosen` and `rejected`; a column of the user's own in any other
    ALONE        refused where nothing in the row is a shape that is read; a column of the user's own in any other
    SAID         a column of the user's own that may say how good the row's only answer is; said by name where no label
                 does, and read as one by --columns label=NAME

To have a field read, change its entry's use to READ, say as what, and read it. A row's field that is in no entry is a
column of the user's own, kept for rewards and judges; a message's is refused, since its fields decide what the model
sees of it. What is refused is refused only where it holds something: null, NaN, empty text and empty lists say nothing,
and nor does false but in fields where it means something (`false_means`).
docs/guide/data.md shows the table; `python tests/house/test_docs_guide.py` writes it there.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from functools import lru_cache
from typing import Any

from alignkit.data.reading.cells import is_missing, says_nothing
from alignkit.errors import InputError


class Use(Enum):
    """What is done with a field."""

    READ = "read"
    HARMLESS = "harmless"
    REFUSED = "refused"
    BESIDE_PAIR = "refused beside `chosen` and `rejected`"
    ALONE = "refused where nothing else is read"
    SAID = "kept for rewards, and said by name once"


READ, HARMLESS, REFUSED, BESIDE_PAIR, ALONE, SAID = Use


@dataclass(frozen=True)
class Field:
    """Names that mean one thing, and what is done with it.

    Args:
        spelt: the names, with spaces between; the first stands for all.
        use: what is done with it.
        says: what it is read as, or why it is refused; a clause without a full stop.
        instead: what else to do with a refused one than to leave it unread, {} for its name.
        neutral: the value of a refused one that changes nothing.
        false_means: whether false says something, and whatever else is not null or NaN; elsewhere false says nothing.
    """

    spelt: str
    use: Use
    says: str = ""
    instead: str = "take such rows out"
    neutral: object = None
    false_means: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.spelt.split())


_PROMPT_ONLY = "it is no part of the prompt"
_OTHER_NAME = "it is not read under this name"
_THOUGHTS = "whose thoughts these are is not said"
_NAME_THOUGHTS = "name an answer's own `reasoning_content`, in [data.columns] or in its message"
_SAYS_WHICH = "it may say which answer is better, and is not read"
_SCORED = "which tokens are scored is said by weights of messages and --train-on"

SHAPE = (
    Field("prompt", READ, "the prompt: text, messages that end with the user, or turns up to `Assistant:`"),
    Field("instruction", READ, "the prompt, as text"),
    Field(
        "input",
        READ,
        "joined to `instruction`; without it and `prompt` the prompt; refused beside a `prompt` that has an answer",
    ),
    Field("question", READ, "the prompt of an answer; where another field is the prompt too, they must agree"),
    Field(
        "messages conversations",
        READ,
        "a conversation, a list of messages or one written as JSON text; beside `chosen` or `rejected` their prompt",
    ),
    Field(
        "history",
        READ,
        "turns before the question, `[[question, answer], ...]` or messages; refused beside a whole conversation",
    ),
    Field("system system_prompt", READ, "the system message, where the conversation has none; another one is refused"),
    Field(
        "chosen chosen_response chosen_messages chosen_conversations preferred_output answer_w",
        READ,
        "the better answer, or a conversation that ends with it",
    ),
    Field(
        "rejected rejected_response rejected_messages rejected_conversations non_preferred_output answer_l",
        READ,
        "the worse answer, or a conversation that ends with it",
    ),
    Field("output", READ, "the answer to `instruction` or `input`; where there is another too, they must agree"),
    Field(
        "completion",
        READ,
        "the answer, also of a conversation that ends with the user; where there is another too, they must agree",
    ),
    Field(
        "completions",
        READ,
        "where each has `response`: the one with the highest `overall_score` (else `fine-grained_score`) against the "
        "one with the lowest; refused where they have ranks, or `labels` beside them (steps)",
    ),
    Field(
        "label kto_tag kto_label desirable is_desirable is_positive is_good thumbs_up labels",
        READ,
        "whether the row's only answer is "
        "good: true or false, 1 or 0, anything else is refused; refused beside `chosen` and `rejected` too, but for "
        "true",
        false_means=True,
    ),
    Field(
        "reasoning_content Complex_CoT",
        READ,
        "the thoughts before the row's only answer, where the template has a place for them",
    ),
    Field(
        "chosen_reasoning chosen_reasoning_content",
        READ,
        "the thoughts before the better answer, where the template has a place for them",
    ),
    Field(
        "rejected_reasoning rejected_reasoning_content",
        READ,
        "the thoughts before the worse answer, where the template has a place for them",
    ),
    Field(
        "tools functions available_tools",
        READ,
        "the tools of the conversation, which the template writes: a list of functions, or one written as JSON text",
    ),
    Field(
        "chat_template_kwargs",
        READ,
        "values for the template that hold for this row, by name: an object, or one written as JSON text; one that the "
        "template never reads is refused",
    ),
    Field("enable_thinking", READ, "true or false: such a value", false_means=True),
    Field("date_string", READ, "text: such a value"),
    Field(
        "preference preferred winner better preference_strength overall_preference better_response_id "
        "safer_response_id winner_model_a winner_model_b winner_tie",
        BESIDE_PAIR,
        _SAYS_WHICH,
        false_means=True,
    ),
    Field("flipped swapped is_flipped is_swapped", BESIDE_PAIR, _SAYS_WHICH),
)
"""Fields that make a row's prompt and answers."""

SCORES = (
    Field(
        "score_chosen chosen_score rating_chosen chosen_rating chosen-rating chosen_avg_rating chosen_reward "
        "reward_chosen",
        READ,
        "the better answer's score; equal scores are a tie",
    ),
    Field(
        "score_rejected rejected_score rating_rejected rejected_rating rejected-rating rejected_avg_rating "
        "rejected_reward reward_rejected",
        READ,
        "the worse answer's score",
    ),
    Field(
        "rating ratings scores",
        READ,
        "both scores where they are a list of two, the chosen one's first or as `generations` lists the answers, or "
        "`{chosen, rejected}`; also as JSON text",
    ),
    Field("score reward rewards", READ, "in a pair the same; else a column of your own"),
    Field(
        "margin",
        READ,
        "how much better the chosen answer is: for `reward --margin W`, and where there are no scores for "
        "`--min-margin`; else dpo and reward skip a pair whose margin is not 0",
    ),
    Field("tie is_tie", READ, "true (or 1) is a tie, false (or 0) is none; anything else is refused", false_means=True),
    Field("status", READ, "`tie` is a tie"),
)
"""Fields that say how much better the chosen answer is."""

MARKS = (
    Field(
        "rating ratings user_rating human_rating overall_rating score scores overall_score quality_score reward_score "
        "user_score human_score reward stars grade points feedback user_feedback human_feedback thumb thumbs "
        "thumbs_rating reaction vote votes upvotes upvoted like likes liked verdict judgment judgement decision "
        "polarity sentiment quality helpful helpfulness correct correctness is_helpful is_preferred is_chosen "
        "is_accepted is_approved is_acceptable preferred accepted approved acceptable passed preference is_safe safe "
        "harmless valid is_valid average_rating avg_rating mean_rating average_score avg_score mean_score "
        "instruct_reward response_quality response_label response_harm_label is_response_safe is_response_correct",
        SAID,
        "it may say how good the answer is, and is no label; true is not said",
        "--columns label={} reads it where it is true or false, 1 or 0, else write a 'label'",
        neutral=True,
    ),
    Field(
        "downvotes downvoted dislike dislikes disliked is_rejected is_wrong is_incorrect unsafe is_unsafe toxic "
        "is_toxic toxicity harmful is_harmful",
        SAID,
        "it may say how bad the answer is, and is no label; false and 0 are not said",
        "write a 'label' that is false where {} says so",
        neutral=0,
    ),
)
"""Fields that may say how good a row's only answer is; some have another meaning in rows of other shapes."""

PAIR_MARKS = (
    Field(
        "choice selected verdict judgment judgement preference_score human_preference preference_label chosen_index "
        "vote human_choice human_prefers annotator_choice preferred_answer better_answer equal is_equal draw is_draw "
        "chosen_votes rejected_votes votes_chosen votes_rejected chosen_upvotes rejected_upvotes upvotes_chosen "
        "upvotes_rejected chosen_rank rejected_rank rank_chosen rank_rejected score_0 score_1 score_a score_b rating_a "
        "rating_b is_response_0_safe is_response_1_safe",
        SAID,
        "it may say which answer is the better one, and is not read",
        "turn rows round, or take them out, where {} says otherwise",
    ),
)
"""Fields that may say that the rejected answer of a pair is the better one."""

PROMPT_PARTS = (
    Field(
        "options choices background ctx evidence schema db_schema",
        SAID,
        "it may belong to what is asked, and is no part of the prompt where the prompt does not hold it",
        "write it into the prompt",
    ),
)
"""Fields that the prompt may lack."""

FURTHER = (
    Field("id", READ, "the row's name; without it a hash of the row"),
    Field("reference", READ, "the text that lengths and BLEU are compared with; without it `chosen`"),
    Field("rules", READ, "what the judge `rules` checks"),
    Field("tool_calls function_call", REFUSED, "calls of tools are read in messages", "write them into a message"),
    Field(
        "image images image_path image_paths image_url image_urls pixel_values img imgs picture pictures photo photos "
        "screenshot screenshots",
        REFUSED,
        "pictures are not read",
    ),
    Field("attachment attachments", REFUSED, "files beside a text are not read"),
    Field(
        "skip exclude excluded deleted is_deleted discard discarded ignored",
        REFUSED,
        "no column says which rows are read",
        neutral=0,
    ),
    Field("audio audios audio_path audio_url", REFUSED, "sound is not read"),
    Field("video videos video_path video_url", REFUSED, "videos are not read"),
    Field(
        "reasoning reasoning_trace reasoning_process think think_content thinking thinking_content thinking_process "
        "thinking_trace thinking_trajectory thinking_trajectories thought thoughts cot chain_of_thought",
        REFUSED,
        _THOUGHTS,
        _NAME_THOUGHTS,
    ),
    Field("chat_template", REFUSED, "the template of one row is not read", "give one with --chat-template"),
    Field(
        "thumbs_down undesirable is_undesirable is_bad",
        REFUSED,
        "an answer that is bad is said by a label that is false",
        "write label, true or false, in its place",
        neutral=0,
    ),
    Field("negative_messages", REFUSED, "lists of bad answers are not read"),
    Field(
        "response_a response_b answer_a answer_b completion_a completion_b response_0 response_1 response_2 answer_0 "
        "answer_1 answer_2 completion_1 completion_2 response_j response_k response1 response2 answer1 answer2 "
        "human_ref_A human_ref_B conversation_a conversation_b",
        REFUSED,
        "which of these answers is the better one is not read",
        "write it as chosen, and the other one as rejected",
    ),
    Field(
        "is_correct",
        REFUSED,
        "it may say that the answer is a bad one",
        "map it by --columns label={}",
        neutral=True,
        false_means=True,
    ),
    Field(
        "corrected reflection", REFUSED, "it corrects 'output'", "map the right answer by --columns output=corrected"
    ),
    Field(
        "loss_weight loss_scale sample_weight weight weights sample_weights importance importance_weight",
        REFUSED,
        "weights of rows are not read",
        neutral=1,
        false_means=True,
    ),
    Field(
        "train training trainable", REFUSED, "whether a row is trained on is not read", neutral=True, false_means=True
    ),
    Field("loss_mask completion_mask assistant_masks mask", REFUSED, _SCORED, false_means=True),
    Field("masked mask_history train_on_last train_on_input train_on_inputs roles_to_train", REFUSED, _SCORED),
    Field(
        "system_message system_instruction instructions developer_message sys sys_prompt sysprompt system_text",
        REFUSED,
        "the system message is 'system'",
        "map it by --columns system={}",
    ),
    Field("conversation dialogue dialog", REFUSED, "its turns are not read", "map it by --columns messages={}"),
    Field(
        "past chat_history conversation_history dialogue_history dialog_history previous_messages",
        REFUSED,
        _PROMPT_ONLY,
        "map it by --columns history={}",
    ),
    Field(
        "context", REFUSED, _PROMPT_ONLY, "write it into the prompt, or, where it is it, map it by --columns prompt={}"
    ),
    Field(
        "document documents passage passages article examples demonstrations few_shot prefix prefill suffix",
        REFUSED,
        _PROMPT_ONLY,
        "write it into the prompt",
    ),
    Field("parallel_tool_calls tool_choice", HARMLESS, "it concerns who serves the model"),
    Field(
        "generation_prompt labelling_prompt raw_labelling_response distilabel_metadata",
        HARMLESS,
        "it says what other models were asked",
    ),
    Field(
        "text",
        ALONE,
        "answers to prompts are trained, not texts without one",
        "split it into prompt and completion, or train on it by another tool",
    ),
    Field("segments", ALONE, "texts without roles are not read", "write them as messages with weight 0 or 1"),
    Field("input_ids", ALONE, "tokens are not read", "give the text that they were made from"),
    Field("turns", ALONE, "questions in a row are no prompt", "write the first as prompt, or all as messages"),
    Field(
        "query problem inputs user_input user_prompt user_query user_message context_messages trajectory",
        ALONE,
        _OTHER_NAME,
        "map it by --columns prompt={}",
    ),
    Field(
        "response answer solution target targets summary generation generated_solution generated_text model_output "
        "model_response assistant_response reply",
        ALONE,
        _OTHER_NAME,
        "map it by --columns completion={}",
    ),
    Field("accepted preferred_response preferred y_w response_w", ALONE, _OTHER_NAME, "map it by --columns chosen={}"),
    Field(
        "rejected_completion rejected_answer rejected_output negative_response dispreferred_response dispreferred "
        "negative reject y_l response_l",
        ALONE,
        _OTHER_NAME,
        "map it by --columns rejected={}",
    ),
    Field(
        "answers responses candidates generations summaries",
        ALONE,
        "lists of answers are not read",
        "write the best one as chosen and the worst as rejected",
    ),
    Field("contents data chat", ALONE, _OTHER_NAME, "write it as messages with role and content"),
)
"""Fields beside a shape."""

ROW = (*SHAPE, *SCORES, *FURTHER)

MESSAGE = (
    Field("role from", READ, "whose turn it is"),
    Field("content value", READ, "the turn's text, or parts"),
    Field(
        "weight loss_weight loss train training trainable",
        READ,
        "whether a turn of the assistant is scored: 1 or true, 0 or false",
    ),
    Field(
        "id message_id index turn turn_id turn_identifier model timestamp time date created created_at create_time "
        "language lang",
        HARMLESS,
    ),
    Field(
        "tool_calls function_call",
        READ,
        "in a turn of the assistant: its calls of tools; arguments are an object, or one written as JSON text",
    ),
    Field("tool_call_id name", READ, "in a result of a tool: which call or tool it answers; refused in other turns"),
    Field("tools", READ, "in the first message: the tools of the conversation; refused in others"),
    Field(
        "reasoning_content reasoning thinking thought thoughts",
        READ,
        "in a turn of the assistant: its thoughts before the content; refused where the template has no place for them",
    ),
    Field(
        "chosen rejected",
        REFUSED,
        "a preference inside a message is not read",
        "write the two answers as chosen and rejected beside the conversation, and end that before them",
    ),
    Field("images image", REFUSED, "pictures are not read"),
    Field("audio audios", REFUSED, "sound is not read"),
    Field("videos video", REFUSED, "videos are not read"),
    Field("train_detail training_detail", REFUSED, "parts of a turn cannot be left unscored", "split the turn"),
    Field("prefix partial", REFUSED, "a turn that the answer goes on from is not rendered"),
    Field("refusal", REFUSED, "refusals beside the content are not rendered"),
    Field("annotations", REFUSED, "annotations are not rendered"),
)
"""Fields of a message; any other is refused."""

ROLE = (
    Field("system developer", READ, "the system message"),
    Field("user human prompter", READ, "the user"),
    Field("assistant gpt bot chatgpt model", READ, "the assistant"),
    Field(
        "tool function observation function_response tool_response tool_result tool_results ipython",
        READ,
        "the result of a tool",
    ),
    Field("function_call tool_call", READ, "the assistant, who calls a tool: JSON text of one call or of a list"),
)
"""Values of `role` and `from`; any other is refused."""

PART = (
    Field("text input_text output_text", READ, "text, under `text` or `value`, joined with nothing between"),
    Field("image image_url input_image", REFUSED, "pictures are not read"),
    Field("audio audio_url input_audio", REFUSED, "sound is not read"),
    Field("video video_url", REFUSED, "videos are not read"),
    Field(
        "reasoning thinking redacted_thinking",
        REFUSED,
        "thoughts are read in a message's `reasoning_content`",
        "write them there",
    ),
    Field(
        "tool_call tool_use tool_result", REFUSED, "calls of tools and results are read in fields of messages and roles"
    ),
)
"""Values of a part's `type`; any other is refused."""

TABLES: Mapping[str, Sequence[Field]] = {
    "what makes the prompt and the answers": SHAPE,
    "which answer is better, and by how much": SCORES,
    "beside a row's only answer, where there is no label": MARKS,
    "beside `chosen` and `rejected`": PAIR_MARKS,
    "beside a prompt": PROMPT_PARTS,
    "further fields of a row": FURTHER,
    "fields of a message": MESSAGE,
    "roles": ROLE,
    "types of a content's parts": PART,
}
"""Every table under its heading in docs/guide/data.md."""


def names(table: Sequence[Field], first: str) -> tuple[str, ...]:
    """The names of the group whose first name is `first`."""
    return next(field.names for field in table if field.names[0] == first)


def used(table: Sequence[Field], *uses: Use) -> frozenset[str]:
    """The names of all fields with one of these uses."""
    return frozenset(name for field in table if field.use in uses for name in field.names)


def by_name(table: Sequence[Field], *uses: Use) -> Mapping[str, Field]:
    """Name -> its field, of all fields with one of these uses."""
    return {name: field for field in table if field.use in uses for name in field.names}


REFUSED_IN_ROW = by_name(ROW, REFUSED)
_ALONE = by_name(FURTHER, ALONE)
_OTHER_ANSWERS = frozenset(
    name for first in ("response", "accepted", "rejected_completion", "answers") for name in names(FURTHER, first)
)
_OTHER_REJECTED = frozenset(names(FURTHER, "rejected_completion"))
_OTHER_PROMPTS = frozenset(names(FURTHER, "query"))
FALSE_MEANS = frozenset(name for field in ROW if field.false_means for name in field.names)
SCORED = used(SCORES, READ) | {"completions"}
IN_SHAPE = used(SHAPE, READ, BESIDE_PAIR)
SPECIAL = IN_SHAPE - {"prompt", "chosen", "rejected"}
"""Fields whose presence says that a row is not just prompt, chosen and rejected."""
_BY_END = {  # system_reasoning, rejected_images and the like
    **dict.fromkeys(
        ("_reasoning", "_reasoning_content", "_thinking", "_thinking_trajectory"),
        Field("", REFUSED, _THOUGHTS, _NAME_THOUGHTS),
    ),
    **dict.fromkeys(("_image", "_images"), Field("", REFUSED, "pictures are not read", neutral=0)),
    **dict.fromkeys(("_audio", "_audios"), Field("", REFUSED, "sound is not read", neutral=0)),
    **dict.fromkeys(("_video", "_videos"), Field("", REFUSED, "videos are not read", neutral=0)),
}
DID_YOU_MEAN = "did you mean {!r}? Only names written so are read"
_KNOWN = frozenset(name for table in TABLES.values() for field in table for name in field.names)
_CHANGES_ROWS = frozenset({*REFUSED_IN_ROW, *SCORED, *IN_SHAPE}).difference(names(SCORES, "score"))


_OF_A_FILE = {"bytes", "path"}


def letters(name: str) -> str:
    """A name without what spellings differ in: toolCalls and tool-calls are tool_calls."""
    return name.lower().replace("_", "").replace("-", "").replace(" ", "")


_MARKS, _PAIR_MARKS = (
    {letters(name): field for name, field in by_name(table, SAID).items()} for table in (MARKS, PAIR_MARKS)
)
_LIKE_SCORES = re.compile("score|reward|rating|grade|quality|points|margin")
_BY_LETTERS = {letters(name): name for name in sorted(_CHANGES_ROWS, reverse=True)}


@lru_cache(maxsize=4096)
def marks(found: tuple[str, ...], *, of_pair: bool = False) -> tuple[tuple[str, Field], ...]:
    """Of a row's field names, those that may say how good its answer is, or which of two, however they are spelt."""
    known = _PAIR_MARKS if of_pair else _MARKS
    bare = ((name, letters(str(name).removesuffix(".responses"))) for name in found)  # Argilla's quality.responses
    return tuple((name, field) for name, meant in bare if (field := known.get(meant)) is not None)


@lru_cache(maxsize=4096)
def like_scores(found: tuple[str, ...]) -> tuple[str, ...]:
    """Of a row's field names, those that may be scores of its answers, read or not."""
    return tuple(name for name in found if _LIKE_SCORES.search(letters(str(name))))


@lru_cache(maxsize=4096)
def prompt_parts(found: tuple[str, ...]) -> tuple[str, ...]:
    """Of a row's field names, those of what the prompt may lack."""
    known = used(PROMPT_PARTS, SAID)
    return tuple(name for name in found if str(name).lower() in known)


@lru_cache(maxsize=4096)
def candidates(found: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """Of a row's field names, those that may be its prompt or its answer and are not read as such, each with which."""
    lower = [(name, str(name).lower()) for name in found]
    kinds = {"rejected answer": _OTHER_REJECTED, "answer": _OTHER_ANSWERS - _OTHER_REJECTED}
    answers = [(name, kind) for kind, known in kinds.items() for name, low in lower if low in known]
    return (*answers, *((name, "prompt") for name, low in lower if low in _OTHER_PROMPTS))


def _meant(name: str) -> str | None:
    """The field that a column's name is but for its spelling; None where it is that name, or none of them."""
    return None if name in _CHANGES_ROWS else _BY_LETTERS.get(letters(name))


def under_other_names(found: Iterable[str], *, answers_only: bool = False) -> list[str]:
    """Say of each column that looks like a prompt or an answer under another name what to do with it.

    Args:
        found: names of columns.
        answers_only: leave out what may be a prompt.
    """
    known = [(name, name.lower()) for name in found if not answers_only or name.lower() in _OTHER_ANSWERS]
    fields = [(name, _ALONE[lower]) for name, lower in known if lower in _ALONE]
    return [f"{name!r}: {field.says}; {field.instead.format(name)}" for name, field in fields]


@lru_cache(maxsize=4096)
def misspelt(name: str) -> str | None:
    """The name that a column's is nearly, of those that would change what is trained; None where it is near none."""
    if name.lower() in _KNOWN or len(name) < 5:
        return None
    near = difflib.get_close_matches(name.lower(), [other for other in _CHANGES_ROWS if len(other) >= 5], 1, 0.85)
    return near[0] if near else None


class FieldRefused(InputError):
    """A field that would change what is trained and is not read.

    Args:
        where: "FILE, line N".
        name: as --ignore-fields takes it, "images" or "message.name".
        field: why it is refused.
    """

    def __init__(self, where: str, name: str, field: Field, also: str = "", names: Sequence[str] = ()) -> None:
        in_message = name.startswith("message.")
        bare = name.removeprefix("message.")
        has = f"a message has the field {bare!r}" if in_message else f"the row has {name!r}"
        super().__init__(
            f"{where}: {has}: {field.says}; {field.instead.format(bare)}, or leave the field unread by --ignore-fields "
            f"{','.join(names or (name,))}{also}"
        )
        self.where, self.name, self.field = where, name, field

    def counted(self, times: Mapping[str, int], num_rows: int, *, is_all: bool) -> FieldRefused:
        """Say how many rows have this field, and which others are refused.

        Args:
            times: name -> in how many rows it is refused.
            num_rows: rows looked at.
            is_all: whether these are all the rows.
        """
        rows = f"{num_rows:,} rows" if is_all else f"the first {num_rows:,} rows"
        counts = ", ".join(f"{count:,} {'has' if count == 1 else 'have'} {name}" for name, count in times.items())
        field = self.field
        meant = [f"{of}={name}" for name in times if (of := _meant(name)) is not None and of not in REFUSED_IN_ROW]
        if len(meant) > 1 and field.instead.startswith("map it by"):
            field = replace(field, instead=f"map them by --columns {','.join(meant)}")
        return FieldRefused(self.where, self.name, field, f" (of {rows} {counts})", tuple(times))


@lru_cache(maxsize=4096)
def suspects(found: tuple[str, ...]) -> tuple[tuple[str, Field], ...]:
    """Of a row's field names, those to be looked at, each with its field."""
    looked_at = []
    for name in map(str, found):
        field = REFUSED_IN_ROW.get(name)
        if field is None and name not in _CHANGES_ROWS:
            known = _meant(name)
            if known is not None:
                field = Field(
                    name,
                    REFUSED,
                    DID_YOU_MEAN.format(known),
                    REFUSED_IN_ROW[known].instead if known in REFUSED_IN_ROW else f"map it by --columns {known}={{}}",
                    false_means=known in FALSE_MEANS,
                )
            field = next((of for end, of in _BY_END.items() if name.lower().endswith(end)), field)
        if field is not None:
            looked_at.append((name, field))
    return tuple(looked_at)


_FILE = Field("", REFUSED, "it holds a file's bytes and path: pictures and sound are not read")


def refuse_files(fields: Mapping[str, Any], where: str) -> None:
    """Refuse a field that holds pictures or sound as tables of datasets do, whatever its name.

    Raises:
        FieldRefused: names the field, and how to leave it unread.
    """
    for name, value in fields.items():
        for one in value if type(value) is list else (value,):
            if type(one) is dict and one.keys() == _OF_A_FILE and not all(map(is_missing, one.values())):
                raise FieldRefused(where, name, _FILE)


def refuse_fields(fields: Mapping[str, Any], where: str, columns: Mapping[str, str] | None = None) -> None:
    """Refuse a row with a field that would change what is trained and is not read.

    Args:
        columns: our name = the file's name; what is read under another name, or left unread, is not refused.

    Raises:
        FieldRefused: names the field, and how to leave it unread.
    """
    for name, field in suspects(tuple(fields)):
        value = fields[name]
        if is_missing(value) or (says_nothing(value) and not field.false_means):
            continue
        if field.neutral is not None and isinstance(value, (bool, int, float)) and value == field.neutral:
            continue
        if columns and (name in columns.values() or columns.get(name) == ""):
            continue
        raise FieldRefused(where, name, field)
