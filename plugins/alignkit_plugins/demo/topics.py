"""What the open families talk about: things, what they are, how they look and what they are for.

Every clause is written so that the families can join it into one or two sentences of about the same length.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Topic:
    """One thing: `what` follows "is"; `looks` and `use` are sentences without the full stop; `child` follows "so"."""

    article: str
    noun: str
    group: str
    what: str
    looks: str
    use: str
    child: str

    @property
    def name(self) -> str:
        """The noun with its article, as it stands inside a sentence."""
        return f"{self.article} {self.noun}".strip()


def _topic(name: str, group: str, *, what: str, looks: str, use: str, child: str) -> Topic:
    article, _, noun = name.rpartition(" ")
    return Topic(article, noun, group, what, looks, use, child)


TOPICS: tuple[Topic, ...] = (
    _topic(
        "a bicycle",
        "travel",
        what="a light vehicle with two wheels that you move by turning its pedals",
        looks="It has a metal frame, two thin wheels, a small seat and a bar for steering",
        use="People ride it to travel short distances without using any fuel",
        child="you can roll to a friend's house on your own strong legs",
    ),
    _topic(
        "a bus",
        "travel",
        what="a long vehicle that carries many passengers along a fixed route",
        looks="It is tall and long, with many windows, rows of seats and wide doors",
        use="People in cities take it to reach work or school without a car",
        child="many people can share one big ride across the town",
    ),
    _topic(
        "a train",
        "travel",
        what="a row of connected cars that an engine pulls along steel rails",
        looks="It is very long and smooth, with many cars, large windows and heavy steel wheels",
        use="It carries people and goods quickly over long distances between cities",
        child="it can pull many people at once without any traffic jam",
    ),
    _topic(
        "a boat",
        "travel",
        what="a small vessel that floats and moves on water",
        looks="It has a curved bottom, a pointed front and often a sail or a small motor",
        use="People use it to cross rivers and lakes, to catch fish or to relax",
        child="you can cross a lake without getting your feet wet",
    ),
    _topic(
        "a plane",
        "travel",
        what="a flying machine with wings and strong engines",
        looks="It has a long white body, two wide wings, a tall tail and small round windows",
        use="It takes travellers and mail to far countries within a few hours",
        child="you can fly over the clouds like a very big bird",
    ),
    _topic(
        "a piano",
        "music",
        what="a large musical instrument that is played by pressing black and white keys",
        looks="It is big and heavy, made of dark polished wood, with a long row of keys",
        use="Musicians play it alone or with others, and many children learn it first",
        child="you can make a song by pressing keys with your fingers",
    ),
    _topic(
        "a guitar",
        "music",
        what="a musical instrument with six strings that you pluck with your fingers",
        looks="It has a hollow wooden body with a round hole and a long thin neck",
        use="People play it to go along with songs at home and on stage",
        child="you can tickle its strings and hear music",
    ),
    _topic(
        "a drum",
        "music",
        what="a round musical instrument that sounds when you hit its tight skin",
        looks="It is shaped like a short barrel with a flat skin over the top",
        use="Bands use it to keep a steady beat for dancers and other players",
        child="you can bang on it and everyone can dance to the beat",
    ),
    _topic(
        "a library",
        "places",
        what="a quiet building where books are kept for everyone to read or borrow",
        looks="It has long shelves full of books, calm reading tables and soft lights",
        use="People go there to study, to find facts and to borrow stories for free",
        child="you can take home a new story every week and bring it back later",
    ),
    _topic(
        "a hospital",
        "places",
        what="a large building where doctors and nurses take care of sick people",
        looks="It has long bright corridors, clean rooms with beds and many busy people",
        use="People go there to be examined, treated and helped after an accident",
        child="kind doctors can help you when you feel very sick",
    ),
    _topic(
        "a museum",
        "places",
        what="a building that collects and shows old, rare or beautiful things",
        looks="It has wide halls with pictures on the walls and objects behind glass",
        use="Visitors go there to learn about art, nature and how people lived before",
        child="you can see real treasures from long ago",
    ),
    _topic(
        "a market",
        "places",
        what="a place where many sellers offer food and goods at small stands",
        looks="It is crowded and colourful, with stands full of fruit, bread, flowers and cloth",
        use="People go there to buy fresh food and to talk with the sellers",
        child="you can pick the reddest apples and pay for them yourself",
    ),
    _topic(
        "a bridge",
        "places",
        what="a strong structure that carries a road or path over water or a valley",
        looks="It stretches from one bank to the other on tall pillars or thick steel ropes",
        use="It lets people, cars and trains cross without going the long way around",
        child="you can walk over a river and stay dry",
    ),
    _topic(
        "a volcano",
        "nature",
        what="a mountain with an opening from which hot melted rock can rise",
        looks="It is shaped like a cone, with steep dark slopes and a hollow at the top",
        use="When it erupts, it throws out ash and lava, which later make very rich soil",
        child="it can spit out hot rock like soup that boils over",
    ),
    _topic(
        "a desert",
        "nature",
        what="a very dry region where little rain falls and few plants grow",
        looks="It is wide and open, with sand or bare stones and almost no trees",
        use="Animals live there by resting in the heat of day and hunting at night",
        child="it almost never rains there and you must bring your own water",
    ),
    _topic(
        "a forest",
        "nature",
        what="a large area of land that is covered with trees and other plants",
        looks="It is green and shady, with tall trunks, soft moss and many small paths",
        use="It gives a home to animals, cleans the air and offers us wood",
        child="birds, foxes and squirrels can all live together among the trees",
    ),
    _topic(
        "a river",
        "nature",
        what="a long stream of fresh water that flows towards a lake or the sea",
        looks="It winds through the land, narrow in the hills and wide near the coast",
        use="It brings water to fields and towns and carries boats from place to place",
        child="a little leaf can float on it all the way to the sea",
    ),
    _topic(
        "an island",
        "nature",
        what="a piece of land that has water on all of its sides",
        looks="It often has sandy beaches, rocky cliffs and green hills in the middle",
        use="People reach it by boat or plane, and many go there for a holiday",
        child="you need a boat to get there because the water goes all around it",
    ),
    _topic(
        "a rainbow",
        "sky",
        what="an arc of colours that appears when sunlight shines through drops of water",
        looks="It bends across the sky in bands of red, orange, yellow, green, blue and violet",
        use="You can see it after rain when the sun stands low behind you",
        child="rain and sun can paint a coloured arch together",
    ),
    _topic(
        "a cloud",
        "sky",
        what="a mass of tiny drops of water or ice that floats in the air",
        looks="It can be white and fluffy like cotton or flat, dark and heavy",
        use="It gives shade on hot days and brings rain and snow to the land",
        child="it can carry water across the sky and drop it as rain",
    ),
    _topic(
        "the moon",
        "sky",
        what="a round ball of rock that circles the Earth about once a month",
        looks="It is pale grey and covered with craters, and its bright part changes every night",
        use="It lights up the night and pulls the sea, which makes the tides",
        child="it can shine at night like a lamp that borrows light from the sun",
    ),
    _topic(
        "a star",
        "sky",
        what="a giant ball of hot gas that makes its own light",
        looks="It appears as a tiny bright point, since it is extremely far away from us",
        use="Sailors once used it at night to find their way across the sea",
        child="it can glow like a little night light that is very far away",
    ),
    _topic(
        "a bee",
        "animals",
        what="a small flying insect that collects nectar and lives in a large group",
        looks="It has a round body with yellow and brown stripes and four clear wings",
        use="It carries pollen between flowers, which helps many fruits and vegetables to grow",
        child="it can visit flowers all day and turn their juice into honey",
    ),
    _topic(
        "a whale",
        "animals",
        what="a huge mammal that lives in the sea and breathes air",
        looks="It has a long smooth body, small eyes, wide fins and a strong flat tail",
        use="It dives deep for food and sings to others over long distances",
        child="it must come up for air just like you do in the pool",
    ),
    _topic(
        "an elephant",
        "animals",
        what="the largest animal on land, with a long trunk and big ears",
        looks="It has wrinkled grey skin, thick legs, wide ears and often two white tusks",
        use="It lives in family groups and uses its trunk to drink, eat and greet others",
        child="it can use its long nose like an arm and like a shower",
    ),
    _topic(
        "a penguin",
        "animals",
        what="a bird of cold seas that cannot fly but swims very well",
        looks="It has a black back, a white belly, short legs and wings like flippers",
        use="It dives for fish and stands close to others to keep warm on the ice",
        child="it can slide on its belly over the ice",
    ),
    _topic(
        "a cat",
        "animals",
        what="a small furry animal with sharp claws that often lives with people",
        looks="It has soft fur, pointed ears, bright eyes, long whiskers and a thin tail",
        use="It hunts mice, sleeps for many hours and keeps its owner company",
        child="it can purr like a tiny engine when you stroke it",
    ),
    _topic(
        "a clock",
        "objects",
        what="a device that measures time and shows it with hands or digits",
        looks="It is usually round, with twelve numbers and two or three moving hands",
        use="It helps people to be on time for work, meals, lessons and trains",
        child="you always know when it is time for lunch",
    ),
    _topic(
        "a camera",
        "objects",
        what="a device that catches light through a lens to make pictures",
        looks="It is a small dark box with a round glass lens and a button on top",
        use="People use it to keep memories of trips, friends and special days",
        child="you can keep a happy moment forever in a picture",
    ),
    _topic(
        "an umbrella",
        "objects",
        what="a folding roof of cloth on a stick that keeps off the rain",
        looks="It opens into a wide round shape of thin cloth held by metal ribs",
        use="People carry it on wet days to keep their clothes and hair dry",
        child="you can take a little roof with you when it rains",
    ),
    _topic(
        "a compass",
        "objects",
        what="a small tool with a magnetic needle that always points to the north",
        looks="It is a flat round case with a glass cover and a thin turning needle",
        use="Hikers and sailors use it to find their way without any signs",
        child="its little needle can show you the way home",
    ),
    _topic(
        "a mirror",
        "objects",
        what="a smooth piece of glass that sends light back and shows your image",
        looks="It is flat and shiny and often has a frame of wood or metal",
        use="People look into it when they comb their hair or try on clothes",
        child="you can make a funny face and see it at the same time",
    ),
    _topic(
        "a vaccine",
        "ideas",
        what="a medicine that teaches the body to fight a disease before it comes",
        looks="It is usually a clear liquid in a small bottle and is given with a needle",
        use="It protects people from dangerous illnesses and keeps them from spreading",
        child="your body can practise and beat the germs when they really come",
    ),
    _topic(
        "a battery",
        "ideas",
        what="a small store of chemical energy that it gives out as electricity",
        looks="It is often a little metal tube with a plus sign at one end",
        use="It powers phones, toys and lamps in places where there is no plug",
        child="your toy can run without a long cable",
    ),
    _topic(
        "a password",
        "ideas",
        what="a secret word that proves to a computer who you are",
        looks="It is a row of letters, numbers and signs that is shown as dots",
        use="It keeps other people away from your messages, photos and money",
        child="only you can open the door to your game",
    ),
    _topic(
        "a recipe",
        "ideas",
        what="a list of ingredients and steps that tells you how to cook a dish",
        looks="It starts with the ingredients and then gives short steps in the right order",
        use="Cooks follow it to get the same good result every time",
        child="you can bake the same yummy cake again and again",
    ),
)
