"""Everyday questions outside the grammar, each with a short plain answer: what a trained model must not unlearn.

They carry no rules; length, repetition and perplexity on them show what training did away from its own tasks.
"""

from __future__ import annotations

OWN: tuple[tuple[str, str], ...] = (
    (
        "I have flour, eggs and milk. What can I make?",
        "You can make pancakes: mix them to a thin batter and fry it in a hot pan.",
    ),
    (
        "How do I get a red wine stain out of a shirt?",
        "Dab it with cold water and salt, then wash the shirt as soon as you can.",
    ),
    (
        "Can you recommend a hobby for a rainy weekend?",
        "Try drawing: you need only paper and a pencil, and you can start at once.",
    ),
    (
        "Write a birthday message for my grandmother.",
        "Happy birthday, dear Grandma! I wish you a year full of health, laughter and sunny days.",
    ),
    (
        "My phone battery drains quickly. What should I check?",
        "Look in the settings for apps that use much power, and lower the brightness of the screen.",
    ),
    ("How long should I boil an egg?", "About seven minutes for a soft yolk and ten minutes for a hard one."),
    (
        "What should I bring to a picnic?",
        "Bring a blanket, sandwiches, fruit, something to drink and a bag for the rubbish.",
    ),
    (
        "Is it better to run in the morning or in the evening?",
        "Both are fine; choose the time at which you will really do it.",
    ),
    (
        "How can I tell my boss that I am ill?",
        "Write a short message: say that you are ill, that you will stay home today, and when you will report again.",
    ),
    (
        "What is the meaning of the word 'curious'?",
        "Someone who is curious wants to know or learn more about something.",
    ),
    ("Tell me a short joke.", "Why did the scarecrow get a prize? It was outstanding in its field."),
    (
        "Help me plan a day in a city that I do not know.",
        "See the old town in the morning, have lunch at a market, and visit one museum in the afternoon.",
    ),
    ("How often should I water a cactus?", "About every two weeks in summer and hardly at all in winter."),
    (
        "What is a good name for a small brown dog?",
        "Hazel would be a nice name, because it is short and also a shade of brown.",
    ),
    (
        "How do I politely decline an invitation?",
        "Thank them warmly, say that you cannot come, and wish them a good time.",
    ),
    ("Translate 'good morning' into French.", "In French it is 'bonjour'."),
    ("What can I do when I am bored?", "Go for a walk, call a friend, or learn how to do something with your hands."),
    (
        "How do I start a conversation with a stranger?",
        "Say something about the place where you both are, and then ask an open question.",
    ),
    ("Give me an idea for a healthy breakfast.", "Have oats with yoghurt, a sliced apple and a few nuts."),
    (
        "Which animal would make a good pet for a small flat?",
        "A cat suits a small flat well, as it needs little space and no walks.",
    ),
    (
        "How do I change a flat bicycle tyre?",
        "Take off the wheel, lever off the tyre, replace the tube, fit all again and pump it up.",
    ),
    (
        "What should I say at a job interview about my weaknesses?",
        "Name a real but small one, and say what you do to become better at it.",
    ),
    (
        "How can I help a friend who is sad?",
        "Listen without judging, offer your company, and ask what would do them good.",
    ),
    (
        "What is the difference between weather and climate?",
        "Weather is what happens today; climate is the usual weather over many years.",
    ),
    ("Write a sentence with the word 'moonlight'.", "The old boat lay still in the moonlight."),
    ("How many hours are there in two days?", "There are 48 hours in two days."),
    (
        "Who should I call when there is a fire?",
        "Leave the building and call the emergency number of your country at once.",
    ),
    ("What can I cook with leftover potatoes?", "Fry them in slices with onions, and add an egg at the end."),
    ("Suggest a title for a story about a lost key.", "The Door That Waited."),
    ("How do I fold a shirt?", "Lay it face down, fold both sides to the middle, then fold it up from the bottom."),
    ("Why is my bread so dry?", "It was probably baked too long or had too little water in the dough."),
    (
        "What does it mean when a traffic light is yellow?",
        "It means that red follows soon, so you should stop if you safely can.",
    ),
    ("How can I read more books?", "Read ten pages before you go to sleep, and always carry a book with you."),
    ("Please correct this sentence: 'She go to school every day.'", "She goes to school every day."),
    ("What is a good gift for a teacher?", "A card with personal words and a small plant is always a good gift."),
    ("How do I make a cup of tea?", "Pour boiling water over a tea bag, wait three minutes and take the bag out."),
    ("What are the seasons of the year?", "They are spring, summer, autumn and winter."),
    ("Should I tell a friend the truth if it hurts?", "Usually yes, but choose a quiet moment and say it kindly."),
    ("How do I find out how old a tree is?", "Count the rings of its trunk: each ring stands for one year."),
    (
        "Write a short note to thank a neighbour for help.",
        "Thank you so much for your help with the garden. It meant a lot to me!",
    ),
)
