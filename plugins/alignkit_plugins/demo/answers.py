"""Ways in which an answer can be worse than the right one: verbose, repetitive, boilerplate, wrong, cut."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from alignkit_plugins.demo.grammar import Task

_OPENINGS = (
    "There are many different things that one could say about {subject}.",
    "When we think about {subject}, it is important to look at it carefully.",
    "This is an interesting question about {subject}, and the answer depends on how you see it.",
    "To answer this, let us first think about {subject} for a moment.",
    "Before I give you the answer, I would like to say something about {subject}.",
)
_PADDING = (
    "It is also important to note that there are many other aspects of {subject} that are worth knowing.",
    "Many people around the world have thought about {subject} in many different ways over time.",
    "In addition to this, you should always keep in mind that every situation is a little different.",
    "If you want to learn more about {subject}, you can read books, ask other people or look for examples.",
    "As you can see, there is a lot more to say about {subject} than it may seem at first.",
    "Overall, this shows how important {subject} can be in our daily life and in many other situations.",
    "This means that you can use this answer in many different cases whenever you may need it.",
    "Another thing that is often mentioned in this context is that details can matter a great deal.",
    "For example, someone who has never heard of {subject} before may want to take a closer look at it.",
    "In conclusion, {subject} is a subject with many sides, and this is only one way of looking at it.",
    "It can be helpful to compare this with other examples in order to understand it even better.",
    "Of course there are always exceptions, and some people may give a somewhat different answer.",
)
_DISCLAIMERS = (
    "I am a model trained on helpful data sources, and I do my best to give useful answers.",
    "As a model trained on a large collection of texts, I cannot have personal opinions.",
    "I am a language model, so please check important facts with an expert.",
    "As an AI assistant, I am always happy to help you with your questions.",
    "Great question! I am happy to help you with {subject}.",
)
_OFFERS = (
    "I hope this helps! Let me know if you have any other questions.",
    "Please feel free to ask me anything else about {subject}.",
    "Let me know if you would like me to explain this in more detail.",
    "If you need more help with {subject}, I am happy to help at any time.",
)


def verbose(task: Task, rng: Random) -> str:
    """The right answer in a text that is too long: slightly (said in a sentence of its own) or very much so.

    A short sentence of its own often goes without its full stop, or the difference to a right answer of one word would
    be the full stop, and a model would learn to leave it out everywhere.
    """
    if rng.random() < 0.65:
        if task.statement == task.chosen:
            return _fill([task.chosen, rng.choice(_PADDING)], task)
        return task.statement.removesuffix(".") if rng.random() < 0.5 else task.statement
    opening = [rng.choice(_OPENINGS)] if rng.random() < 0.4 else []
    return _fill([*opening, task.statement, *rng.sample(_PADDING, rng.randint(1, 5))], task)


def repetitive(task: Task, rng: Random) -> str:
    """The right answer, or its first sentence, again and again."""
    sentence = rng.choice((task.statement, task.statement.split(". ")[0].rstrip(".") + "."))
    return "\n".join([sentence] * rng.randint(3, 5)) if rng.random() < 0.3 else " ".join([sentence] * rng.randint(3, 5))


def boilerplate(task: Task, rng: Random) -> str:
    """Talk about being a model and offers of help, around the right answer or in its place."""
    before = rng.sample(_DISCLAIMERS, rng.randint(1, 2))
    answer = [task.statement] if rng.random() < 0.6 else []
    return _fill([*before, *answer, rng.choice(_OFFERS)], task)


def wrong(task: Task, rng: Random) -> str:
    """A short answer that is not right."""
    return task.wrong


def cut(task: Task, rng: Random) -> str:
    """The beginning of an answer that stops early: after its first sentence, in the middle, before the full stop."""
    answer = task.chosen if task.chosen.endswith((".", "?")) else task.statement
    first, more, _ = answer.partition(". ")
    if more and rng.random() < 0.75:
        return f"{first}."
    if rng.random() < 0.5:
        return answer[:-1] if answer.endswith((".", "?")) else answer
    words = answer.split(" ")
    return " ".join(words[: max(1, round(len(words) * rng.uniform(0.4, 0.85)))])


def _fill(sentences: list[str], task: Task) -> str:
    return " ".join(sentences).replace("{subject}", task.subject)


KINDS: dict[str, Callable[[Task, Random], str]] = {
    "verbose": verbose,
    "repetitive": repetitive,
    "boilerplate": boilerplate,
    "wrong": wrong,
    "cut": cut,
}
"""Name of the kind (the column `rejected_kind`) to the function that writes such an answer."""

WEIGHTS: dict[bool, dict[str, int]] = {
    False: {"verbose": 50, "repetitive": 10, "boilerplate": 10, "wrong": 20, "cut": 10},
    True: {"verbose": 10, "repetitive": 10, "boilerplate": 10, "wrong": 15, "cut": 55},
}
"""How often each kind is drawn, of 100, for closed tasks and for open ones (True).

What a small model does most after plain SFT: too long where one word is asked for, one sentence where two are. With too
long answers in both, "shorter" would be all that a model learns from the pairs.
"""
