"""Facts that every general model should keep."""

from __future__ import annotations

from alignkit_plugins.general.task import Task, asked

# of each case: what fills the pattern, a wrong answer, the right ones
_CASES: tuple[tuple[str, str, tuple[tuple[str, ...], ...]], ...] = (
    (
        "capital",
        "What is the capital of {}?",
        (
            ("Portugal", "Porto", "Lisbon"),
            ("Norway", "Bergen", "Oslo"),
            ("Egypt", "Alexandria", "Cairo"),
            ("Canada", "Toronto", "Ottawa"),
            ("Kenya", "Mombasa", "Nairobi"),
        ),
    ),
    (
        "element",
        "Which chemical element has the symbol {}?",
        (
            ("Fe", "copper", "iron"),
            ("Na", "nitrogen", "sodium"),
            ("Au", "silver", "gold"),
            ("K", "calcium", "potassium"),
            ("Pb", "tin", "lead"),
        ),
    ),
    (
        "opposite",
        'What is the opposite of the word "{}"?',
        (
            ("empty", "heavy", "full"),
            ("shallow", "wide", "deep"),
            ("ancient", "large", "modern", "new", "recent"),
            ("victory", "battle", "defeat", "loss"),
            ("expand", "grow", "contract", "shrink"),
        ),
    ),
    (
        "after",
        "What comes right after {}?",
        (
            ("Tuesday in the week", "Thursday", "Wednesday"),
            ("August in the year", "July", "September"),
            ("the letter Q in the alphabet", "the letter P", "R"),
            ("the number ninety-nine when counting", "ninety", "one hundred", "hundred", "100"),
            ("Earth among the planets, counted from the Sun", "Venus", "Mars"),
        ),
    ),
    (
        "young",
        "What is a young {} called?",
        (
            ("dog", "calf", "puppy", "pup"),
            ("sheep", "foal", "lamb"),
            ("cow", "chick", "calf"),
            ("goose", "duckling", "gosling"),
            ("kangaroo", "kitten", "joey"),
        ),
    ),
    (
        "parts",
        "How many {}?",
        (
            ("sides does a hexagon have", "five", "6", "six"),
            ("legs does a spider have", "six", "8", "eight"),
            ("minutes are in two hours", "90", "120"),
            ("grams are in one kilogram", "100", "1000", "1,000", "thousand"),
            ("months have exactly thirty days", "seven", "4", "four"),
        ),
    ),
    (
        "continent",
        "On which continent does {} lie?",
        (
            ("Peru", "Africa", "South America"),
            ("Mongolia", "Europe", "Asia"),
            ("Ghana", "Asia", "Africa"),
            ("Hungary", "Asia", "Europe"),
            ("Guatemala", "Africa", "North America", "Central America", "America"),
        ),
    ),
    (
        "tool",
        "Which instrument measures {}?",
        (
            ("temperature", "a ruler", "thermometer"),
            ("air pressure", "a compass", "barometer"),
            ("the passing of time", "a scale", "clock", "watch", "stopwatch", "chronometer", "timer"),
            ("how heavy a parcel is", "a thermometer", "scale", "scales", "balance"),
            ("earthquakes", "a barometer", "seismometer", "seismograph"),
        ),
    ),
    (
        "made-of",
        "What is {} mainly made from?",
        (
            ("paper", "sand", "wood", "trees", "pulp", "cellulose"),
            ("glass", "clay", "sand", "silica"),
            ("cheese", "wheat", "milk"),
            ("bread", "milk", "flour", "wheat", "grain"),
            ("a wax candle from a beehive", "honey", "beeswax", "wax"),
        ),
    ),
    (
        "body",
        "Which part of the human body {}?",
        (
            ("pumps blood", "the liver", "heart"),
            ("is used to hear", "the nose", "ear", "ears"),
            ("takes in air and hands its oxygen to the blood", "the stomach", "lungs", "lung"),
            ("do people chew with", "the hair", "teeth", "tooth"),
            ("joins the upper and the lower arm", "the knee", "elbow"),
        ),
    ),
)


def tasks() -> list[Task]:
    return [task for template, pattern, cases in _CASES for task in asked("facts", template, pattern, cases)]
