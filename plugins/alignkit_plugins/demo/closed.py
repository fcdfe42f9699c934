"""Families with one right answer, asked for alone: facts, sums, yes or no, groups."""

from __future__ import annotations

from random import Random

from alignkit_plugins.demo.grammar import Family, Task, capitalised, joined, plain_rules, rule, say, short_rules
from alignkit_plugins.demo.words import CAPITALS, CATEGORIES, COLOURS_OF, NAMES, OPPOSITES

_ONE_WORD = ("Answer with one word.", "Give one word only.", "Reply with a single word.", "One word, please.")
_NUMBER_ONLY = ("Answer with the number only.", "Give only the number.", "Reply with just the number.", "Number only.")


def capital(rng: Random) -> Task:
    """Name the capital of a country."""
    country, city = rng.choice(list(CAPITALS.items()))
    asks = (
        "What is the capital of {country}?",
        "Name the capital of {country}.",
        "Which city is the capital of {country}?",
    )
    specs = ("Answer with the name only.", "Give only the name.", "Reply with just the city.", "Name only, please.")
    wrong = rng.choice([other for other in CAPITALS.values() if other != city])
    statement = f"The capital of {country} is {city}."
    return Task(say(rng, asks, specs, country=country), city, short_rules(city), wrong, statement, country)


def opposite(rng: Random) -> Task:
    """Name the opposite of a word."""
    pair = rng.choice(OPPOSITES)
    word, answer = rng.sample(pair, 2)
    asks = (
        "What is the opposite of '{word}'?",
        "Give the opposite of '{word}'.",
        "Which word means the opposite of '{word}'?",
    )
    wrong = rng.choice([other for known in OPPOSITES if known is not pair for other in known])
    statement = f"The opposite of '{word}' is '{answer}'."
    prompt = say(rng, asks, _ONE_WORD, word=word)
    return Task(prompt, answer, short_rules(answer), wrong, statement, f"the word {word}")


def addition(rng: Random) -> Task:
    """Add two small numbers."""
    a, b = rng.randint(1, 20), rng.randint(1, 20)
    asks = ("What is {a} + {b}?", "Add {a} and {b}.", "How much is {a} plus {b}?", "Calculate {a} + {b}.")
    return _number_task(rng, say(rng, asks, _NUMBER_ONLY, a=a, b=b), a + b, f"{a} plus {b} equals {a + b}.")


def left_over(rng: Random) -> Task:
    """Subtract in a story of one sentence."""
    name, thing = rng.choice(NAMES), rng.choice(("apples", "books", "coins", "pencils", "stamps", "eggs"))
    b = rng.randint(1, 9)
    a = b + rng.randint(1, 12)
    asks = (
        "{name} has {a} {thing} and gives {b} away. How many {thing} are left?",
        "There are {a} {thing} on the table and {name} takes {b}. How many {thing} stay there?",
        "{name} bought {a} {thing} and lost {b} of them. How many does {name} still have?",
    )
    prompt = say(rng, asks, _NUMBER_ONLY, name=name, thing=thing, a=a, b=b)
    return _number_task(
        rng, prompt, a - b, f"{name} started with {a} {thing}, so after {b} are gone there are {a - b}."
    )


def yes_no(rng: Random) -> Task:
    """Say whether a thing belongs to a group."""
    group, other = rng.sample(list(CATEGORIES), 2)
    truth = rng.random() < 0.5
    word = rng.choice(CATEGORIES[group if truth else other])
    if not truth and word in CATEGORIES[group]:
        truth = True
    asks = (
        "Do people count '{word}' among the {group}?",
        "Does '{word}' belong to the {group}?",
        "Would you count '{word}' as one of the {group}?",
    )
    specs = ("Answer yes or no.", "Yes or no?", "Reply with yes or no only.", "Say only yes or no.")
    answer, wrong = ("Yes", "No") if truth else ("No", "Yes")
    statement = f"{answer}, '{word}' {'belongs' if truth else 'does not belong'} to the {group}."
    return Task(say(rng, asks, specs, word=word, group=group), answer, short_rules(answer), wrong, statement, word)


def group_of(rng: Random) -> Task:
    """Pick the group that a word belongs to."""
    groups = rng.sample(list(CATEGORIES), 3)
    answer = rng.choice(groups)
    outside = {word for group in groups if group != answer for word in CATEGORIES[group]}
    word = rng.choice([word for word in CATEGORIES[answer] if word not in outside])
    asks = (
        "Which group does '{word}' belong to: {groups}?",
        "Choose the group of '{word}': {groups}.",
        "Of the groups {groups}, which one fits '{word}'?",
    )
    specs = ("Answer with the group only.", "Name only the group.", "Reply with just the group.")
    wrong = rng.choice([group for group in groups if group != answer])
    prompt = say(rng, asks, specs, word=word, groups=joined(groups, "or"))
    return Task(prompt, answer, short_rules(answer), wrong, f"The word '{word}' belongs to the {answer}.", word)


def colour_of(rng: Random) -> Task:
    """Name the usual colour of a thing."""
    thing, colour = rng.choice(list(COLOURS_OF.items()))
    asks = ("What colour is {thing}?", "Name the usual colour of {thing}.", "Which colour does {thing} have?")
    wrong = rng.choice([other for other in CATEGORIES["colours"] if other != colour])
    statement = f"{capitalised(thing)} usually has the colour {colour}."
    return Task(say(rng, asks, _ONE_WORD, thing=thing), colour, short_rules(colour), wrong, statement, thing)


def _number_task(rng: Random, prompt: str, answer: int, statement: str) -> Task:
    rules = [rule("number", number=answer, at="last", weight=3), rule("num_words", max=1, weight=3), *plain_rules()]
    wrong = answer + rng.choice((-2, -1, 1, 2, 10))
    return Task(prompt, str(answer), rules, str(wrong), statement, "this sum")


FAMILIES = (
    Family("capital", capital),
    Family("opposite", opposite),
    Family("addition", addition),
    Family("yes-no", yes_no),
    Family("group-of", group_of),
    Family("left-over", left_over, unseen=True),
    Family("colour-of", colour_of, unseen=True),
)
