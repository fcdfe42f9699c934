"""What people ask advice about, and questions that begin with "why"; each answer as clauses to be joined."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Goal:
    """Something to become better at: `doing` follows "for"; a tip is (an infinitive clause, what follows "because").

    Every tip or its reason has one of `words`, so that a tip for another goal can be told from it.
    """

    doing: str
    words: tuple[str, ...]
    tips: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Question:
    """A question without "why" and its two-sentence answer, which names `topic`."""

    text: str
    topic: str
    first: str
    second: str


GOALS: tuple[Goal, ...] = (
    Goal(
        "sleeping better",
        ("sleep", "bed", "night"),
        (
            ("go to bed at the same time every evening", "your body gets used to a steady night"),
            ("keep your phone out of the bedroom", "bright screens make it harder to fall into deep sleep"),
            ("drink no coffee after lunch", "it can keep you awake far into the night"),
        ),
    ),
    Goal(
        "learning a language",
        ("words", "language", "speak"),
        (
            ("study ten new words every morning", "small steps are easier to remember than long lists of words"),
            ("speak with a native speaker once a week", "you only learn to speak by speaking"),
            ("watch simple films in the new language", "you hear how people really talk"),
        ),
    ),
    Goal(
        "saving money",
        ("money", "spend", "buy"),
        (
            ("write down everything that you spend", "you soon see where your money goes"),
            ("wait one day before you buy something expensive", "many wishes are gone by the next morning"),
            ("cook at home instead of eating out", "restaurant meals cost much more money"),
        ),
    ),
    Goal(
        "staying healthy",
        ("body", "healthy", "health"),
        (
            ("walk for half an hour every day", "moving keeps your heart and body strong"),
            ("eat fruit and vegetables with every meal", "they give your body what it needs"),
            ("drink plenty of water during the day", "a healthy body loses water all the time"),
        ),
    ),
    Goal(
        "remembering names",
        ("name", "names"),
        (
            ("repeat the name aloud when you meet someone", "saying it once makes it stick"),
            ("link the name to a funny picture in your mind", "pictures are easier to recall than sounds"),
            ("write new names into a small notebook", "reading them again later keeps them fresh"),
        ),
    ),
    Goal(
        "keeping a room tidy",
        ("room", "tidy", "shelf"),
        (
            ("put every thing back in its place at once", "a tidy place then takes no extra work"),
            ("give away what you no longer use", "a room with fewer things is quickly cleaned"),
            ("use boxes on a shelf for small objects", "they no longer lie around on the floor"),
        ),
    ),
    Goal(
        "growing plants at home",
        ("plant", "plants", "soil"),
        (
            ("place the plants near a bright window", "they need light to grow"),
            ("touch the soil before you water it", "too much water makes the roots rot"),
            ("give each plant a larger pot every spring", "its roots need room to spread"),
        ),
    ),
    Goal(
        "giving a good speech",
        ("speech", "audience", "listeners"),
        (
            ("practise the speech aloud in front of a friend", "you notice early where you get stuck"),
            ("look at your audience while you talk", "people listen better when they feel seen"),
            ("begin with a short story", "listeners remember stories longer than facts"),
        ),
    ),
    Goal(
        "cooking rice",
        ("rice", "pot"),
        (
            ("wash the rice until the water stays clear", "loose starch makes the grains sticky"),
            ("keep the lid on the pot while it cooks", "the steam is needed to soften the grains"),
            ("let the rice rest for ten minutes", "the moisture spreads evenly in that time"),
        ),
    ),
    Goal(
        "making new friends",
        ("people", "friends", "friend"),
        (
            ("join a club for something that you enjoy", "you meet people who share your interest"),
            ("ask questions and listen to the answers", "people like to be heard"),
            ("invite someone for a short walk", "friends are made by spending time together"),
        ),
    ),
    Goal(
        "preparing for an exam",
        ("exam", "study", "learn"),
        (
            ("start to study two weeks before the exam", "the brain needs time to store new facts"),
            ("explain each subject to a friend", "you learn most by teaching it"),
            ("solve old exam questions with a clock beside you", "you get used to the time limit"),
        ),
    ),
    Goal(
        "riding a bicycle safely",
        ("helmet", "ride", "drivers"),
        (
            ("wear a helmet on every trip", "a helmet protects your head in a fall"),
            ("use bright lights after sunset", "drivers can see you from far away"),
            ("check your brakes before you ride", "you may have to stop very quickly"),
        ),
    ),
    Goal(
        "writing a clear letter",
        ("letter", "sentences", "reader"),
        (
            ("use short sentences with one idea each", "the reader never has to read them twice"),
            ("say in the first line what you want", "a busy reader may not reach the end"),
            ("read the letter aloud before you send it", "your ear finds mistakes that your eye misses"),
        ),
    ),
    Goal(
        "packing a suitcase",
        ("suitcase", "clothes", "pack"),
        (
            ("roll your clothes instead of folding them", "rolls take less space and show fewer creases"),
            ("make a list before you pack", "you will not forget the small important things"),
            ("put heavy shoes at the bottom of the suitcase", "they cannot press on soft things there"),
        ),
    ),
    Goal(
        "taking good photos",
        ("photo", "photos", "picture", "light"),
        (
            ("stand with the sun behind you", "soft light from your back makes faces clear"),
            ("clean the lens before every photo", "one finger mark can blur the whole picture"),
            ("take several photos of the same scene", "at least one of them will be sharp"),
        ),
    ),
    Goal(
        "saving energy at home",
        ("energy", "power", "heat"),
        (
            ("turn off the lights when you leave a room", "an empty room needs no power"),
            ("wash your clothes in cold water", "most of the energy is used to heat the water"),
            ("close the curtains on winter nights", "they keep the heat inside"),
        ),
    ),
    Goal(
        "training a dog",
        ("dog", "command", "reward"),
        (
            ("give a small reward right after each success", "the dog then knows what it did well"),
            ("use the same short command every time", "different words only confuse the animal"),
            ("practise for five minutes several times a day", "a young dog gets tired very fast"),
        ),
    ),
    Goal(
        "staying calm under stress",
        ("calm", "breath", "stress"),
        (
            ("take a slow deep breath and count to five", "a long breath tells your body to relax"),
            ("go outside for a short walk", "moving lowers your level of stress"),
            ("make a list of what must be done first", "a clear plan keeps your mind calm"),
        ),
    ),
    Goal(
        "running faster",
        ("run", "runs", "running", "legs"),
        (
            ("mix short fast runs with long slow ones", "both kinds make your legs stronger"),
            ("rest for a day after hard running", "muscles grow while you recover"),
            ("take small quick steps when you run", "long strides slow you down at each landing"),
        ),
    ),
    Goal(
        "drawing animals",
        ("draw", "drawing", "shapes"),
        (
            ("start with simple shapes such as circles", "every animal can be built from easy shapes"),
            ("draw from photographs first", "a photograph holds still while you look"),
            ("look longer than you draw", "a good drawing begins with careful eyes"),
        ),
    ),
)

QUESTIONS: tuple[Question, ...] = (
    Question(
        "do people drink water",
        "water",
        "The body loses water all day through sweat and breath",
        "People drink to replace it, because every organ needs water to work",
    ),
    Question(
        "do leaves turn red in autumn",
        "leaves",
        "In autumn the green colour in the leaves breaks down",
        "Red and yellow colours can then be seen, which were hidden or newly made before",
    ),
    Question(
        "does ice float on water",
        "ice",
        "Water takes up more space when it freezes",
        "The ice is therefore lighter than the same amount of water and stays on top",
    ),
    Question(
        "do birds fly south in winter",
        "birds",
        "In winter many birds find too little food in the cold north",
        "They fly south, where it stays warm and there is more to eat",
    ),
    Question(
        "do we need sleep",
        "sleep",
        "During sleep the body repairs itself and the brain sorts its memories",
        "Without enough rest we become slow, forgetful and ill more easily",
    ),
    Question(
        "is the sea salty",
        "salt",
        "Rain washes small amounts of salt out of rocks and into rivers",
        "The rivers carry it to the sea, where the water dries away but the salt stays",
    ),
    Question(
        "do cats have whiskers",
        "whiskers",
        "Cats use their whiskers to feel objects that are very close",
        "This helps them in the dark and tells them whether a gap is wide enough",
    ),
    Question(
        "should people wear a seat belt",
        "belt",
        "In a crash the seat belt holds you firmly in your place",
        "Without it, you would be thrown forward and could be badly hurt",
    ),
    Question(
        "do we brush our teeth",
        "teeth",
        "Food that stays on the teeth feeds tiny germs which make acid",
        "Brushing removes them, so that the teeth stay strong and free of pain",
    ),
    Question(
        "does the moon seem to change its shape",
        "moon",
        "The sun always lights one half of the moon",
        "As the moon circles us, we see more or less of the bright half",
    ),
    Question(
        "do bees visit flowers",
        "bees",
        "Bees find sweet nectar and pollen in flowers and take them as food",
        "While they fly on, they carry pollen along and help new seeds to form",
    ),
    Question(
        "do metal things feel cold",
        "metal",
        "Metal leads the warmth of your hand away very quickly",
        "Your skin cools down at once, and so the metal seems colder than wood",
    ),
    Question(
        "do people read books",
        "books",
        "Books let people learn about things and places they have never seen",
        "Many also read for fun, since a good story takes them into another world",
    ),
    Question(
        "is exercise good for you",
        "exercise",
        "Regular exercise makes the heart, muscles and bones stronger",
        "It also lifts your mood and helps you to sleep well at night",
    ),
    Question(
        "do plants need sunlight",
        "light",
        "Plants use the light of the sun to make sugar from air and water",
        "This sugar is their food, so they grow weak when it is dark",
    ),
    Question(
        "does bread rise in the oven",
        "bread",
        "The yeast in bread dough eats sugar and gives off a gas",
        "The gas makes bubbles that swell in the heat and lift the dough",
    ),
    Question(
        "do people wear warm clothes in winter",
        "clothes",
        "Warm clothes hold a layer of air close to the skin",
        "This air lets little heat escape, so the body stays warm in winter",
    ),
    Question(
        "do cities have parks",
        "parks",
        "Parks give people in a city a green place to rest and play",
        "Their trees also clean the air and keep the streets around them cooler",
    ),
    Question(
        "does thunder follow lightning",
        "thunder",
        "Lightning heats the air so fast that it makes a loud bang",
        "Light travels faster than sound, and so the thunder reaches us later",
    ),
    Question(
        "do dogs wag their tails",
        "dogs",
        "Dogs use their tails to show others how they feel",
        "A loose and quick wag often means that the dog is happy to see you",
    ),
)
