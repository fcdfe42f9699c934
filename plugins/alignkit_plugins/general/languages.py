"""Short questions in ten languages, to be answered in them."""

# ruff: noqa: RUF001  (Turkish and Russian have letters that look like others)

from __future__ import annotations

from alignkit_plugins.general.task import Task, asked

# of each case: the question, a wrong answer, the right ones
_QUESTIONS: dict[str, tuple[tuple[str, ...], ...]] = {
    "german": (
        ("Welcher Tag kommt nach Dienstag?", "Freitag", "Mittwoch"),
        ("Was ist das Gegenteil von heiß?", "schwer", "kalt"),
        ("Welche Farbe hat Schnee?", "rot", "weiß"),
        ("Welches Tier bellt?", "die Katze", "Hund"),
        ("Wie viele Finger hat eine Hand?", "sieben", "fünf", "5"),
    ),
    "french": (
        ("Quel jour vient après mardi ?", "vendredi", "mercredi"),
        ("Quel est le contraire de chaud ?", "lourd", "froid"),
        ("De quelle couleur est la neige ?", "rouge", "blanche", "blanc"),
        ("Quel animal aboie ?", "le chat", "chien"),
        ("Combien de doigts a une main ?", "sept", "cinq", "5"),
    ),
    "spanish": (
        ("¿Qué día viene después del martes?", "viernes", "miércoles"),
        ("¿Cuál es lo contrario de caliente?", "pesado", "frío"),
        ("¿De qué color es la nieve?", "roja", "blanca", "blanco"),
        ("¿Qué animal ladra?", "el gato", "perro"),
        ("¿Cuántos dedos tiene una mano?", "siete", "cinco", "5"),
    ),
    "italian": (
        ("Quale giorno viene dopo martedì?", "venerdì", "mercoledì"),
        ("Qual è il contrario di caldo?", "pesante", "freddo"),
        ("Di che colore è la neve?", "rossa", "bianca", "bianco"),
        ("Quale animale abbaia?", "il gatto", "cane"),
        ("Quante dita ha una mano?", "sette", "cinque", "5"),
    ),
    "portuguese": (
        ("Que dia vem depois de terça-feira?", "sexta-feira", "quarta-feira", "quarta"),
        ("Qual é o contrário de quente?", "pesado", "frio"),
        ("De que cor é a neve?", "vermelha", "branca", "branco"),
        ("Que animal ladra?", "o gato", "cão", "cachorro"),
        ("Quantos dedos tem uma mão?", "sete", "cinco", "5"),
    ),
    "dutch": (
        ("Welke dag komt na dinsdag?", "vrijdag", "woensdag"),
        ("Wat is het tegenovergestelde van warm?", "zwaar", "koud", "koel"),
        ("Welke kleur heeft sneeuw?", "rood", "wit", "witte"),
        ("Welk dier blaft?", "de kat", "hond"),
        ("Hoeveel vingers heeft een hand?", "zeven", "vijf", "5"),
    ),
    "polish": (
        ("Jaki dzień jest po wtorku?", "piątek", "środa"),
        ("Jakie jest przeciwieństwo słowa „gorący”?", "ciężki", "zimny", "zimno"),
        ("Jakiego koloru jest śnieg?", "czerwony", "biały", "białego"),
        ("Jakie zwierzę szczeka?", "kot", "pies"),
        ("Ile palców ma dłoń?", "siedem", "pięć", "5"),
    ),
    "swedish": (
        ("Vilken dag kommer efter tisdag?", "fredag", "onsdag"),
        ("Vad är motsatsen till varm?", "tung", "kall", "kallt"),
        ("Vilken färg har snö?", "röd", "vit", "vitt"),
        ("Vilket djur skäller?", "katten", "hund", "hunden"),
        ("Hur många fingrar har en hand?", "sju", "fem", "5"),
    ),
    "russian": (
        ("Какой день идёт после вторника?", "пятница", "среда"),
        ("Какое слово противоположно слову «горячий»?", "тяжёлый", "холодный"),
        ("Какого цвета снег?", "красный", "белый", "белого"),
        ("Какое животное лает?", "кошка", "собака", "пёс"),
        ("Сколько пальцев на руке?", "семь", "пять", "5"),
    ),
    "turkish": (
        ("Salıdan sonra hangi gün gelir?", "Cuma", "Çarşamba"),
        ("Sıcak kelimesinin zıttı nedir?", "ağır", "soğuk"),
        ("Kar ne renktir?", "kırmızı", "beyaz", "beyazdır"),
        ("Hangi hayvan havlar?", "kedi", "köpek"),
        ("Bir elde kaç parmak var?", "yedi", "beş", "5"),
    ),
}


def tasks() -> list[Task]:
    return [task for language, cases in _QUESTIONS.items() for task in asked("languages", language, "{}", cases)]
