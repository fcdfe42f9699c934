"""Word lists of the closed families: small facts that hold, and words to count, sort and rewrite."""

from __future__ import annotations

CATEGORIES: dict[str, tuple[str, ...]] = {
    "fruits": tuple("apple pear banana cherry grape lemon mango orange peach plum melon kiwi fig apricot lime".split()),
    "animals": tuple("cat dog horse cow sheep goat lion tiger bear wolf fox rabbit mouse elephant monkey pig".split()),
    "colours": tuple("red blue green yellow orange purple pink brown black white grey gold silver".split()),
    "tools": tuple("hammer saw drill wrench screwdriver pliers chisel axe shovel rake ladder file".split()),
    "vegetables": tuple("carrot potato onion cabbage spinach broccoli lettuce pea bean leek turnip celery".split()),
    "vehicles": tuple("car bus train bicycle truck boat plane tram van ship motorcycle taxi ferry".split()),
    "clothes": tuple("shirt coat hat sock shoe dress skirt jacket glove scarf sweater belt boot jeans".split()),
    "drinks": tuple("water tea coffee milk juice lemonade cocoa soda wine beer".split()),
    "sports": tuple(
        "tennis football hockey golf rugby boxing swimming cycling rowing skiing basketball cricket".split()
    ),
    "instruments": tuple("piano guitar violin flute drum trumpet harp cello clarinet organ banjo".split()),
    "birds": tuple("eagle owl robin sparrow swan duck goose crow parrot pigeon hawk penguin stork".split()),
    "pieces of furniture": tuple("table chair sofa bed desk shelf stool bench wardrobe cupboard dresser".split()),
    "flowers": tuple("rose tulip daisy lily orchid violet poppy iris daffodil sunflower lavender".split()),
    "kitchen items": tuple("spoon fork knife plate bowl cup pan pot kettle ladle whisk oven".split()),
}

CAPITALS: dict[str, str] = {
    "France": "Paris", "Germany": "Berlin", "Italy": "Rome", "Spain": "Madrid", "Portugal": "Lisbon",
    "Austria": "Vienna", "Poland": "Warsaw", "Greece": "Athens", "Ireland": "Dublin", "Norway": "Oslo",
    "Sweden": "Stockholm", "Finland": "Helsinki", "Denmark": "Copenhagen", "Hungary": "Budapest",
    "Belgium": "Brussels", "England": "London", "Scotland": "Edinburgh", "Russia": "Moscow", "Japan": "Tokyo",
    "China": "Beijing", "India": "New Delhi", "Egypt": "Cairo", "Kenya": "Nairobi", "Canada": "Ottawa",
    "Cuba": "Havana", "Peru": "Lima", "Chile": "Santiago", "Argentina": "Buenos Aires", "Turkey": "Ankara",
    "Iran": "Tehran", "Iraq": "Baghdad", "Thailand": "Bangkok", "Vietnam": "Hanoi", "Romania": "Bucharest",
    "Bulgaria": "Sofia", "Serbia": "Belgrade", "Croatia": "Zagreb", "Iceland": "Reykjavik", "Ukraine": "Kyiv",
    "Nepal": "Kathmandu", "Morocco": "Rabat", "Australia": "Canberra",
}  # fmt: skip

OPPOSITES: tuple[tuple[str, str], ...] = (
    ("hot", "cold"), ("big", "small"), ("fast", "slow"), ("old", "new"), ("happy", "sad"), ("light", "dark"),
    ("high", "low"), ("open", "closed"), ("full", "empty"), ("hard", "soft"), ("wet", "dry"), ("early", "late"),
    ("rich", "poor"), ("strong", "weak"), ("long", "short"), ("loud", "quiet"), ("clean", "dirty"), ("near", "far"),
    ("up", "down"), ("left", "right"), ("day", "night"), ("win", "lose"), ("push", "pull"), ("buy", "sell"),
    ("remember", "forget"), ("love", "hate"), ("first", "last"), ("inside", "outside"), ("thick", "thin"),
    ("wide", "narrow"), ("true", "false"), ("safe", "dangerous"), ("cheap", "expensive"), ("begin", "end"),
    ("arrive", "leave"), ("above", "below"), ("before", "after"), ("always", "never"), ("summer", "winter"),
)  # fmt: skip

COLOURS_OF: dict[str, str] = {
    "a ripe banana": "yellow", "grass": "green", "snow": "white", "coal": "black", "a ripe tomato": "red",
    "a carrot": "orange", "the clear sky by day": "blue", "blood": "red", "milk": "white", "chocolate": "brown",
    "a lemon": "yellow", "an aubergine": "purple", "a crow": "black", "a flamingo": "pink", "an elephant": "grey",
    "a frog": "green", "a pumpkin": "orange", "cooked rice": "white", "spinach": "green", "a stop sign": "red",
}  # fmt: skip

NAMES = tuple(
    "Anna Ben Clara David Emma Felix Grace Henry Ida Jack Kate Leo Maria Noah Olga Peter Rosa Sam Tina Walter".split()
)
CITIES = tuple("Paris Rome Berlin London Madrid Oslo Vienna Lisbon Dublin Athens Tokyo Cairo".split())
JOBS = tuple("teacher doctor farmer cook pilot nurse painter baker driver lawyer writer gardener".split())
ADJECTIVES = tuple("quiet bright small happy golden cold early simple brave gentle little yellow wooden empty".split())
NOUNS = tuple(
    "garden river window morning teacher mountain kitchen bridge village letter candle forest market pencil".split()
)

COMMANDS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("close", ("the door", "the window", "the gate", "the box")),
    ("open", ("the door", "the window", "the letter", "the curtains")),
    ("bring", ("me a chair", "me the report", "some water", "the menu")),
    ("send", ("me the file", "me your address", "the invoice today", "the photos")),
    ("clean", ("the kitchen", "your desk", "the board", "the car")),
    ("read", ("this page", "the instructions", "my letter", "the last chapter")),
    ("fix", ("the printer", "this mistake", "my bicycle", "the lamp")),
    ("call", ("me tomorrow", "the doctor", "the office", "a taxi")),
    ("turn off", ("the lights", "the radio", "the heating", "your phone")),
    ("move", ("your car", "these boxes", "the table", "the meeting to Friday")),
)  # fmt: skip

VERBS: tuple[tuple[str, str, str], ...] = (  # present, past, what may follow
    ("walks", "walked", "to the school"), ("opens", "opened", "the window"), ("plays", "played", "in the garden"),
    ("cooks", "cooked", "a big dinner"), ("cleans", "cleaned", "the kitchen"), ("visits", "visited", "an old friend"),
    ("paints", "painted", "the wooden door"), ("watches", "watched", "the birds"), ("calls", "called", "the doctor"),
    ("writes", "wrote", "a long letter"), ("drinks", "drank", "a cup of tea"), ("sings", "sang", "a quiet song"),
    ("buys", "bought", "fresh bread"), ("runs", "ran", "through the park"), ("finds", "found", "a silver coin"),
    ("takes", "took", "the early train"), ("gives", "gave", "the dog some water"), ("sees", "saw", "a red fox"),
)  # fmt: skip

BOILERPLATE: tuple[str, ...] = (
    "I am a model", "as a model", "as an AI", "language model", "trained on", "happy to help", "here is", "here are",
    "let me know", "feel free", "I hope this helps", "certainly", "of course", "great question",
)  # fmt: skip
