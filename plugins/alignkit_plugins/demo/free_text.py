"""Families of open answers: free text of one or two sentences, where a model easily says too much."""

from __future__ import annotations

from random import Random

from alignkit_plugins.demo.grammar import Family, Task, capitalised, open_rules, say
from alignkit_plugins.demo.questions import GOALS, QUESTIONS, Goal
from alignkit_plugins.demo.topics import TOPICS, Topic

_TWO = ("Answer in two sentences.", "Use two sentences.", "In two sentences, please.", "Write exactly two sentences.")
_ONE = ("Answer in one sentence.", "Use one sentence only.", "One sentence, please.", "Write exactly one sentence.")


def explain(rng: Random) -> Task:
    """Say in two sentences what a thing is."""
    topic, other = rng.sample(TOPICS, 2)
    asks = ("What is {name}?", "Explain what {name} is.", "Tell me what {name} is.", "I want to know what {name} is.")
    chosen = f"{_name(topic)} is {topic.what}. {topic.use}."
    return _about(rng, asks, topic, chosen=chosen, wrong=f"{_name(other)} is {other.what}. {other.use}.")


def describe(rng: Random) -> Task:
    """Say in two sentences how a thing looks and what it is for."""
    topic, other = rng.sample(TOPICS, 2)
    asks = (
        "Describe {name}.",
        "What does {name} look like?",
        "Give a description of {name}.",
        "Describe {name} to me.",
    )
    chosen = f"{_looks(topic)}. {topic.use}."
    return _about(rng, asks, topic, chosen=chosen, wrong=f"{_looks(other)}. {other.use}.")


def for_a_child(rng: Random) -> Task:
    """Explain a thing to a child in one sentence."""
    topic, other = rng.sample(TOPICS, 2)
    asks = (
        "Explain {name} to a child.",
        "How would you tell a young child what {name} is?",
        "A child asks what {name} is.",
    )
    chosen, wrong = (f"{_name(one)} is {one.what}, so {one.child}." for one in (topic, other))
    rules = open_rules(sentences=1, min_words=8, max_words=36, topics=[topic.noun])
    return Task(say(rng, asks, _ONE, name=topic.name), chosen, rules, wrong, chosen, topic.name)


def compare(rng: Random) -> Task:
    """Say in two sentences how two things of a group differ."""
    topic = rng.choice(TOPICS)
    other = rng.choice([one for one in TOPICS if one.group == topic.group and one is not topic])
    stranger = rng.choice([one for one in TOPICS if one.group != topic.group])
    asks = (
        "What is the difference between {name} and {other}?",
        "Compare {name} with {other}.",
        "How does {name} differ from {other}?",
    )
    chosen = f"{_name(topic)} is {topic.what}. {_name(other)}, however, is {other.what}."
    rules = open_rules(sentences=2, min_words=14, max_words=40, topics=[topic.noun])
    rules.append({"kind": "contains", "values": [topic.noun, other.noun]})
    prompt = say(rng, asks, _TWO, name=topic.name, other=other.name)
    return Task(prompt, chosen, rules, f"{_name(stranger)} is {stranger.what}. {stranger.use}.", chosen, topic.name)


def tip(rng: Random) -> Task:
    """Give one tip in one sentence."""
    goal, other = rng.sample(GOALS, 2)
    asks = (
        "Give me one tip for {doing}.",
        "What is a good tip for {doing}?",
        "Name one thing that helps with {doing}.",
        "I need a tip for {doing}.",
    )
    chosen, wrong = (_tip(rng, *rng.choice(one.tips)) for one in (goal, other))
    rules = open_rules(sentences=1, min_words=6, max_words=26, topics=goal.words)
    return Task(say(rng, asks, _ONE, doing=goal.doing), chosen, rules, wrong, chosen, goal.doing)


def advise(rng: Random) -> Task:
    """Advise someone in two sentences."""
    goal, other = rng.sample(GOALS, 2)
    who = rng.choice(("A friend", "My sister", "My neighbour", "A student", "A colleague"))
    asks = (
        "{who} asks for advice on {doing}.",
        "{who} has trouble with {doing}. What would you advise?",
        "How can I help with {doing}? {who} asked me.",
    )
    chosen, wrong = (_advice(rng, one) for one in (goal, other))
    rules = open_rules(sentences=2, min_words=12, max_words=40, topics=goal.words)
    return Task(say(rng, asks, _TWO, who=who, doing=goal.doing), chosen, rules, wrong, chosen, goal.doing)


def why(rng: Random) -> Task:
    """Answer a question that begins with "why" in two sentences."""
    question, other = rng.sample(QUESTIONS, 2)
    asks = ("Why {text}?", "Explain why: why {text}?", "Can you tell me the reason: why {text}?")
    chosen, wrong = (f"{one.first}. {one.second}." for one in (question, other))
    rules = open_rules(sentences=2, min_words=14, max_words=40, topics=[question.topic])
    return Task(say(rng, asks, _TWO, text=question.text), chosen, rules, wrong, chosen, question.topic)


def _about(rng: Random, asks: tuple[str, ...], topic: Topic, *, chosen: str, wrong: str) -> Task:
    rules = open_rules(sentences=2, min_words=14, max_words=40, topics=[topic.noun])
    return Task(say(rng, asks, _TWO, name=topic.name), chosen, rules, wrong, chosen, topic.name)


def _name(topic: Topic) -> str:
    return capitalised(topic.name)


def _looks(topic: Topic) -> str:
    return f"{_name(topic)} {topic.looks.removeprefix('It ')}"


def _tip(rng: Random, clause: str, reason: str) -> str:
    return rng.choice((f"Try to {clause}, because {reason}.", f"{capitalised(clause)}, since {reason}."))


def _advice(rng: Random, goal: Goal) -> str:
    first, second = rng.sample(goal.tips, 2)
    return f"{_tip(rng, *first)} It also helps to {second[0]}."


FAMILIES = (
    Family("explain", explain, open=True),
    Family("describe", describe, open=True),
    Family("tip", tip, open=True),
    Family("for-a-child", for_a_child, open=True, unseen=True),
    Family("compare", compare, open=True, unseen=True),
    Family("advise", advise, open=True, unseen=True),
    Family("why", why, open=True, unseen=True),
)
