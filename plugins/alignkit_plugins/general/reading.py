"""Questions on a short text that holds the answer."""

from __future__ import annotations

from alignkit_plugins.general.task import Rule, Task, asked, counts, has, has_all, lacks

# of each case: what fills the pattern, a wrong answer, the right ones
_ASKED: tuple[tuple[str, str, tuple[tuple[str, ...], ...]], ...] = (
    (
        "whose",
        "{}",
        (
            ("Anna has a red bike and Ben has a blue one. What colour is Ben's bike?", "red", "blue"),
            ("Omar keeps a parrot and Lin keeps a rabbit. Which animal does Lin keep?", "a parrot", "rabbit"),
            ("Ida plays chess and Paul plays tennis. What does Ida play?", "tennis", "chess"),
            ("Rosa drinks tea and Max drinks coffee. What does Max drink?", "tea", "coffee"),
            ("Eva lives in Bonn and Karl lives in Kiel. Where does Eva live?", "in Kiel", "Bonn"),
        ),
    ),
    (
        "where",
        "{}",
        (
            ("The keys are under the sofa. The phone is on the shelf. Where are the keys?", "on the shelf", "sofa"),
            ("The soup is in the fridge. The bread is in the drawer. Where is the bread?", "in the fridge", "drawer"),
            ("The ladder stands in the barn. The cart is behind it. Where is the ladder?", "on the roof", "barn"),
            ("The letter lies in the box. The stamp is in the purse. Where is the stamp?", "in the box", "purse"),
            ("The boat is at the pier. The net hangs on the fence. Where is the net?", "at the pier", "fence"),
        ),
    ),
    (
        "why",
        "{} Why?",
        (
            ("The match was called off because of fog.", "It was too hot", "fog"),
            ("The shop stayed closed since its owner was on holiday.", "It had no bread", "holiday"),
            ("The train stopped because a tree lay on the track.", "It had no driver", "tree"),
            ("The cake was flat because the baker forgot the yeast.", "It had no sugar", "yeast"),
            ("The lamp stayed dark because its bulb was broken.", "It was noon", "bulb"),
        ),
    ),
    (
        "when",
        "{}",
        (
            ("The museum opens at nine and closes at six. When does it close?", "at nine", "six", "6"),
            ("We meet on Friday, and the exam is on Monday. When is the exam?", "on Friday", "Monday"),
            ("The roof was built in May and painted in July. When was it painted?", "in May", "July"),
            ("The film begins at eight and the dinner at seven. When does the film begin?", "at seven", "eight", "8"),
            ("Ships leave in the morning and return in the evening. When do they return?", "at noon", "evening"),
        ),
    ),
    (
        "compare",
        "{}",
        (
            ("Mia is taller than Leo. Leo is taller than Tim. Who is the shortest?", "Mia", "Tim"),
            ("A melon is heavier than a pear, a pear than a plum. Which is the heaviest?", "a plum", "melon"),
            ("The red car is slower than the blue one. Which car is faster?", "the red one", "blue"),
            ("Nora came before Finn, and Finn before Olga. Who came last?", "Nora", "Olga"),
            ("Gold costs more than silver, silver more than tin. Which is the cheapest?", "gold", "tin"),
        ),
    ),
)
_SORTED = ("pear apple fig", "tin gold iron", "moth bee wasp ant", "oak elm birch", "north east south west")
_EXACT = (
    "The blue door is open.",
    "Seven small ships sail south.",
    "Please leave the lamp on.",
    "Nobody knew the old song.",
    "Green tea tastes best warm.",
)
_SWAPS = (
    ("cat", "dog", "The cat sleeps by the stove."),
    ("river", "lake", "We walked along the river."),
    ("summer", "winter", "Every summer they visit her."),
    ("apple", "lemon", "She put an old apple on the table."),
    ("king", "queen", "The people cheered their king."),
)
_CONTACTS = (
    ("Write to info@blueharbour.example or come by on Monday.", "info@blueharbour.example"),
    ("Questions go to help@stonegarden.example, not to the office.", "help@stonegarden.example"),
    ("You reach Jana at jana@millroad.example after noon.", "jana@millroad.example"),
    ("Send the plans to plans@oldtower.example by Friday.", "plans@oldtower.example"),
    ("Tickets: tickets@nightbus.example (closed on Sundays).", "tickets@nightbus.example"),
)
_LOGIC = (
    ("All mugs in this box are green. This mug is in this box. Is it green?", "Yes", "No"),
    ("No bird in this yard can swim. This duck is a bird in this yard. Can it swim?", "No", "Yes"),
    ("If it rains, the street is wet. It rains. Is the street wet?", "Yes", "No"),
    ("Every pupil has a key. Sam is a pupil. Has Sam a key?", "Yes", "No"),
    ("Only members may enter. Kim is not a member. May Kim enter?", "No", "Yes"),
)


def tasks() -> list[Task]:
    found = [task for template, pattern, cases in _ASKED for task in asked("reading", template, pattern, cases)]
    for words in _SORTED:
        ordered = sorted(words.split())
        rule: Rule = {"kind": "ordered", "values": ordered}
        ask = f"Put these words in alphabetical order: {', '.join(words.split())}."
        found.append(Task("reading", "sort", ask, (rule,), ", ".join(ordered), ", ".join(reversed(ordered))))
    for text in _EXACT:
        equal: Rule = {"kind": "equals", "value": text}
        found.append(
            Task("reading", "repeat", f"Repeat exactly, and add nothing: {text}", (equal,), text, "All right.")
        )
    for old, new, text in _SWAPS:
        ask = f'Replace the word "{old}" by "{new}" and write only the new sentence: {text}'
        rules = (has_all(new), lacks(old), counts("num_words", most=12))
        found.append(Task("reading", "replace", ask, rules, text.replace(old, new), text))
    for text, address in _CONTACTS:
        ask = f"Which email address stands in this text? {text}"
        found.append(Task("reading", "address", ask, (has(address),), address, "There is none."))
    for text, right, wrong in _LOGIC:
        starts: Rule = {"kind": "starts_with", "values": [right]}
        found.append(Task("reading", "logic", f"{text} Answer yes or no.", (starts,), f"{right}.", f"{wrong}."))
    return found
