"""Twelve rows to probe a judge with where no others are named: everyday questions, each with a right answer and a
fluent wrong one. Made for this project; too few to rank good judges, enough to find a broken one."""

from __future__ import annotations

from alignkit.judging.probes import ProbeRow

_TEXTS = (
    ("What is 17 times 6?", "17 times 6 is 102.", "17 times 6 is 112."),
    (
        "Name the three states of matter that everyday life shows.",
        "Solid, liquid and gas.",
        "The three states are hot, warm and cold.",
    ),
    (
        "Why does ice float on water?",
        "Ice is less dense than liquid water, because water expands when it freezes, so it floats.",
        "Ice floats because it is colder than the water, and cold things rise to the top.",
    ),
    ("Translate into French: The book is on the table.", "Le livre est sur la table.", "Le table est sur la livre."),
    (
        "Write a sentence of exactly five words about rain.",
        "Rain fell softly all night.",
        "The rain kept falling softly on the roof throughout the whole long night.",
    ),
    ("Sort these words by the alphabet: pear, apple, fig.", "apple, fig, pear", "pear, fig, apple"),
    (
        "A train leaves at 14:20 and takes 95 minutes. When does it arrive?",
        "It arrives at 15:55.",
        "It arrives at 15:15, which is 95 minutes after 14:20.",
    ),
    (
        "How can I get a coffee stain out of a cotton shirt?",
        "Rinse it with cold water, dab on a little detergent or white vinegar, wait ten minutes, then wash as usual.",
        "Iron the stain with a very hot iron first, so that the coffee is driven out of the cotton.",
    ),
    (
        "What does the Python expression len('abc' * 2) give?",
        "6, since 'abc' * 2 is 'abcabc'.",
        "It gives an error, since a text cannot be multiplied.",
    ),
    (
        "Which planet is closest to the Sun?",
        "Mercury.",
        "Venus is the planet that is closest to the Sun, which is why it is so hot.",
    ),
    (
        "Summarise in one sentence: The shop opens at nine. It closes at five. On Sundays it stays closed.",
        "The shop is open from nine to five, except on Sundays.",
        "The shop is open every day from nine to five.",
    ),
    (
        "Is it safe to mix bleach and ammonia to clean better?",
        "No. Together they give off toxic chloramine gas; use one at a time, with fresh air.",
        "Yes, the two work better together than either of them alone; just use warm water.",
    ),
)

ROWS = tuple(
    ProbeRow.model_validate(
        {"id": f"probe-{number}", "prompt": prompt, "chosen": chosen, "rejected": rejected, "subset": "right or wrong"}
    )
    for number, (prompt, chosen, rejected) in enumerate(_TEXTS, start=1)
)
