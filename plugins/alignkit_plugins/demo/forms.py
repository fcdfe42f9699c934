"""Families about the form of an answer: lists, orders, JSON, and rewriting of a given text."""

from __future__ import annotations

import json
from collections.abc import Sequence
from random import Random

from alignkit_plugins.demo.grammar import Family, Rule, Task, capitalised, list_rules, plain_rules, rule, say
from alignkit_plugins.demo.words import ADJECTIVES, CATEGORIES, CITIES, COMMANDS, JOBS, NAMES, NOUNS, VERBS

_COUNTS = {2: "two", 3: "three", 4: "four", 5: "five", 6: "six"}
_LIST_ASKS = (
    "Name {count} {group}.",
    "List {count} {group}.",
    "Give me {count} {group}.",
    "Write down {count} different {group}.",
)
_ADVERBS = ("often", "always", "never", "sometimes", "usually", "rarely", "still", "almost always")
_COMMA_SPECS = (
    "Separate them with commas.",
    "Use commas between them.",
    "On one line, with commas.",
    "As a comma list.",
)


def comma_list(rng: Random) -> Task:
    """Name some things of a group on one line."""
    specs = ("Separate them with commas.", "Use commas, on one line.", "Write them on one line with commas.")
    return _listing(rng, "comma-list", specs)


def numbered_list(rng: Random) -> Task:
    """Name some things of a group as a numbered list."""
    specs = ("Use a numbered list.", "Number them, one on each line.", "As a numbered list.", "Write a numbered list.")
    return _listing(rng, "numbered-list", specs)


def bullet_list(rng: Random) -> Task:
    """Name some things of a group as bullet points."""
    specs = (
        "Use bullet points.",
        "Put a dash before each one.",
        "As bullet points.",
        "One on each line, after a dash.",
    )
    return _listing(rng, "bullet-list", specs)


def alphabetical(rng: Random) -> Task:
    """Put words into alphabetical order."""
    words = rng.sample(sorted({word for group in CATEGORIES.values() for word in group}), rng.randint(3, 4))
    asks = (
        "Put these words into alphabetical order: {items}.",
        "Sort alphabetically: {items}.",
        "Order these words from A to Z: {items}.",
    )
    return _sorting(rng, asks, words, sorted(words))


def by_size(rng: Random) -> Task:
    """Put numbers into rising or falling order."""
    numbers = rng.sample(range(1, 100), rng.randint(3, 5))
    falling = rng.random() < 0.5
    first, last = ("largest", "smallest") if falling else ("smallest", "largest")
    asks = (
        f"Sort these numbers from the {first} to the {last}: {{items}}.",
        f"Write these numbers with the {first} first: {{items}}.",
        f"Order {{items}} so that the {first} comes first and the {last} comes last.",
    )
    return _sorting(rng, asks, [str(n) for n in numbers], [str(n) for n in sorted(numbers, reverse=falling)])


def json_object(rng: Random) -> Task:
    """Turn a sentence about a person into a JSON object."""
    name, age, job, city = rng.choice(NAMES), rng.randint(18, 80), rng.choice(JOBS), rng.choice(CITIES)
    fact, key, value = rng.choice(
        (
            (f"{name} is {age} years old", "age", age),
            (f"{name} works as a {job}", "job", job),
            (f"{name} lives in {city}", "city", city),
        )
    )
    asks = (
        "Write as a JSON object with the keys name and {key}: {fact}.",
        "Turn this into JSON with name and {key}: {fact}.",
    )
    specs = ("Give only the JSON.", "Reply with the JSON only.", "No other text.", "Nothing but the JSON.")
    chosen = json.dumps({"name": name, key: value})
    rules = [
        rule("format", format="json", weight=2),
        rule("json_keys", values=["name", key], weight=2),
        rule("contains", values=[name, str(value)]),
        rule("num_words", max=4),
        *plain_rules(),
    ]
    wrong = rng.choice((f"name: {name}, {key}: {value}", json.dumps({"person": name, key: value}), f"{name} {value}"))
    statement = f"Here is the JSON object for this sentence:\n{chosen}\nIt has the keys name and {key}."
    return Task(say(rng, asks, specs, fact=fact, key=key), chosen, rules, wrong, statement, name)


def uppercase(rng: Random) -> Task:
    """Repeat a few words in capital letters."""
    text = f"{rng.choice(('the', 'a', 'my', 'our', 'one'))} {rng.choice(ADJECTIVES)} {rng.choice(NOUNS)}"
    asks = ("Write '{text}' in capital letters.", "Put '{text}' into upper case.", "Turn '{text}' into capitals.")
    specs = ("Give only the result.", "Write nothing else.", "Only the changed text.")
    rules = [
        rule("format", format="uppercase", weight=2),
        rule("equals", value=text.upper(), weight=2),
        rule("num_words", max=3),
        *plain_rules(),
    ]
    statement = f"The text '{text}' in capital letters is {text.upper()}."
    return Task(say(rng, asks, specs, text=text), text.upper(), rules, capitalised(text), statement, "capital letters")


def polite(rng: Random) -> Task:
    """Turn a command into a polite question."""
    verb, objects = rng.choice(COMMANDS)
    command = f"{verb} {rng.choice(objects)}"
    asks = (
        "Make this polite: {command}!",
        "Rewrite as a polite question: {command}.",
        "Say this more politely: {command}.",
    )
    specs = ("One sentence only.", "Give only the new sentence.", "Answer with one question.")
    chosen = f"Could you please {command}?"
    rules = [
        rule("contains", values=["please", "could you", "would you", "can you"], at_least=2),
        rule("contains", values=command.split(), weight=2),
        rule("ends_with", values=["?"]),
        rule("num_sentences", min=1, max=1),
        rule("num_words", max=len(command.split()) + 6, weight=2),
        *plain_rules(),
    ]
    statement = f"A more polite way to say this would be the following question: {chosen}"
    prompt = say(rng, asks, specs, command=capitalised(command))
    return Task(prompt, chosen, rules, f"{capitalised(command)} now!", statement, "polite language")


def with_adverb(rng: Random) -> Task:
    """Put a given word into a sentence, before the verb."""
    name, (present, _, rest), adverb = rng.choice(NAMES), rng.choice(VERBS), rng.choice(_ADVERBS)
    text, chosen = f"{name} {present} {rest}.", f"{name} {adverb} {present} {rest}."
    asks = (
        "Add the word '{adverb}' to this sentence: {text}",
        "Put '{adverb}' before the verb: {text}",
        "Use the word '{adverb}' in this sentence: {text}",
    )
    specs = ("Give only the new sentence.", "Only the new sentence, please.", "Reply with the changed sentence.")
    rules = [
        rule("equals", value=chosen, weight=2),
        rule("contains", values=[adverb]),
        rule("num_words", max=len(chosen.split()), weight=2),
        rule("ends_with", values=["."]),
        *plain_rules(),
    ]
    statement = f"With the word '{adverb}' the sentence becomes: {chosen}"
    return Task(say(rng, asks, specs, text=text, adverb=adverb), chosen, rules, text, statement, "this sentence")


def past_tense(rng: Random) -> Task:
    """Put a sentence into the past tense."""
    name, (present, past, rest) = rng.choice(NAMES), rng.choice(VERBS)
    text, chosen = f"{name} {present} {rest}.", f"{name} {past} {rest}."
    asks = ("Put this into the past tense: {text}", "Rewrite in the past tense: {text}", "Change to the past: {text}")
    specs = ("Give only the new sentence.", "One sentence only.", "Write nothing else.")
    rules = [
        rule("equals", value=chosen, weight=2),
        rule("contains", values=[past]),
        rule("num_words", max=len(chosen.split()), weight=2),
        rule("ends_with", values=["."]),
        *plain_rules(),
    ]
    statement = f"In the past tense, the sentence becomes: {chosen}"
    return Task(say(rng, asks, specs, text=text), chosen, rules, text, statement, "the past tense")


def shorten(rng: Random) -> Task:
    """Say a long sentence in a few words."""
    name, (_, past, rest) = rng.choice(NAMES), rng.choice(VERBS)
    first, second = rng.sample(("quietly", "slowly", "happily", "at last", "once again", "without any hurry"), 2)
    when = rng.choice(("on a cold and rainy evening", "very early in the morning", "after a long and busy day"))
    text, chosen = f"{capitalised(when)}, {name} {first} and {second} {past} {rest}.", f"{name} {past} {rest}."
    limit = len(chosen.split()) + 1
    asks = (
        "Shorten this to at most {limit} words: {text}",
        "Say this in {limit} words or fewer: {text}",
        "Cut this down to {limit} words: {text}",
    )
    specs = ("Give only the short sentence.", "One sentence only.", "Write nothing else.")
    rules = [
        rule("num_words", min=2, max=limit, weight=3),
        rule("contains", values=[name, past, *rest.split()[-1:]], weight=2),
        rule("num_sentences", min=1, max=1),
        rule("ends_with", values=["."]),
        *plain_rules(),
    ]
    statement = f"A shorter way to say this is: {chosen}"
    return Task(say(rng, asks, specs, text=text, limit=limit), chosen, rules, text, statement, "short sentences")


def _listing(rng: Random, format: str, specs: Sequence[str]) -> Task:
    group, words = rng.choice(list(CATEGORIES.items()))
    count = rng.randint(2, 6)
    items = rng.sample(words, count)
    too_few = rng.sample(words, 1) if count < 3 else items[: count - 2]
    other = rng.sample(CATEGORIES[rng.choice([name for name in CATEGORIES if name != group])], count)
    wrong = rng.choice((" ".join(items), write_list(format, too_few), "\n\n".join(other)))
    listed = write_list(format, items)
    statement = (
        f"Here are {_COUNTS[count]} {group} that you might like:\n\n{listed}\n\nThese are all very common {group}."
    )
    prompt = say(rng, _LIST_ASKS, specs, count=_COUNTS[count], group=group)
    return Task(prompt, listed, list_rules(format, count, words=words), wrong, statement, group)


def _sorting(rng: Random, asks: Sequence[str], items: list[str], right: list[str]) -> Task:
    shuffled = rng.sample(items, len(items))
    while shuffled == right:
        shuffled = rng.sample(items, len(items))
    rules: list[Rule] = [
        rule("equals", value=", ".join(right)),
        rule("ordered", values=right, weight=2),
        rule("format", format="comma-list"),
        rule("num_items", min=len(right), max=len(right)),
        rule("num_words", max=len(right), weight=2),
        *plain_rules(),
    ]
    prompt = say(rng, asks, _COMMA_SPECS, items=", ".join(shuffled))
    statement = f"In the right order they are as follows: {', '.join(right)}."
    return Task(prompt, ", ".join(right), rules, ", ".join(shuffled), statement, "the order")


def write_list(format: str, items: Sequence[str]) -> str:
    """Write the items as a comma-list, a numbered-list or a bullet-list."""
    if format == "comma-list":
        return ", ".join(items)
    marks = [f"{n}." for n in range(1, len(items) + 1)] if format == "numbered-list" else ["-"] * len(items)
    return "\n".join(f"{mark} {item}" for mark, item in zip(marks, items, strict=True))


FAMILIES = (
    Family("comma-list", comma_list),
    Family("numbered-list", numbered_list),
    Family("alphabetical", alphabetical),
    Family("json-object", json_object),
    Family("uppercase", uppercase),
    Family("polite", polite),
    Family("with-adverb", with_adverb),
    Family("bullet-list", bullet_list, unseen=True),
    Family("by-size", by_size, unseen=True),
    Family("past-tense", past_tense, unseen=True),
    Family("shorten", shorten, unseen=True),
)
