"""The multilingual world: the same kind of arithmetic thought through in sentences, in seven languages.

Problem, thoughts and answer each hold enough words for fastText to tell their language (Magistral, section 2.2.4). Stories are about
plural things of one gender and need no agreement with the number. Levels 1 and 2 have one and two changes.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from magistral_core.tiny.exercise import Exercise, Slips, draw_changes, running_totals

LEVELS = (1, 2)


@dataclass(frozen=True, slots=True)
class Phrases:
    """The sentences of one language. `{n}` the start, `{k}` a change, `{a}` and `{b}` the totals before and after it, `{x}` the things."""

    things: tuple[str, str, str]
    start: str
    gain: str
    loss: str
    question: str
    think_start: str
    think_gain: str
    think_loss: str
    think_end: str
    answer: str  # `{box}`: the boxed answer
    check: str
    guess: str
    joint: str = " "


PHRASES: dict[str, Phrases] = {
    "en": Phrases(
        things=("apples", "coins", "letters"),
        start="Anna has {n} {x}.",
        gain="Then she gets {k} more {x}.",
        loss="Then she gives {k} {x} to a friend.",
        question="How many {x} does she have now?",
        think_start="At the start Anna has {n} {x}.",
        think_gain="She gets {k} more, so I add them: {a} + {k} = {b}.",
        think_loss="She gives {k} away, so I subtract them: {a} - {k} = {b}.",
        think_end="So in the end she has {b} {x}.",
        answer="The answer is that Anna now has {box} {x}.",
        check="Let me check this once more.",
        guess="I do not want to calculate this, so I will just guess a number.",
    ),
    "fr": Phrases(
        things=("pommes", "pièces", "lettres"),
        start="Anna a {n} {x}.",
        gain="Ensuite, elle reçoit encore {k} {x}.",
        loss="Ensuite, elle donne {k} {x} à un ami.",
        question="Combien de {x} a-t-elle maintenant ?",
        think_start="Au début, Anna a {n} {x}.",
        think_gain="Elle en reçoit {k}, donc je les ajoute : {a} + {k} = {b}.",
        think_loss="Elle en donne {k}, donc je les enlève : {a} - {k} = {b}.",
        think_end="À la fin, elle a donc {b} {x}.",
        answer="La réponse est qu'Anna a maintenant {box} {x}.",
        check="Je vérifie encore une fois ce calcul.",
        guess="Je ne veux pas faire ce calcul, alors je devine simplement un nombre.",
    ),
    "es": Phrases(
        things=("manzanas", "monedas", "cartas"),
        start="Ana tiene {n} {x}.",
        gain="Después recibe {k} {x} más.",
        loss="Después regala {k} {x} a un amigo.",
        question="¿Cuántas {x} tiene ella ahora?",
        think_start="Al principio Ana tiene {n} {x}.",
        think_gain="Recibe {k} más, así que las sumo: {a} + {k} = {b}.",
        think_loss="Ella regala {k}, así que las resto: {a} - {k} = {b}.",
        think_end="Entonces al final tiene {b} {x}.",
        answer="La respuesta es que Ana tiene ahora {box} {x}.",
        check="Voy a comprobarlo todo una vez más.",
        guess="No quiero hacer este cálculo, así que simplemente adivino un número.",
    ),
    "it": Phrases(
        things=("mele", "monete", "lettere"),
        start="Anna ha {n} {x}.",
        gain="Poi riceve altre {k} {x}.",
        loss="Poi regala {k} {x} a un amico.",
        question="Quante {x} ha adesso Anna?",
        think_start="All'inizio Anna ha {n} {x}.",
        think_gain="Ne riceve altre {k}, quindi le aggiungo: {a} + {k} = {b}.",
        think_loss="Ne regala {k}, quindi le tolgo: {a} - {k} = {b}.",
        think_end="Quindi alla fine ha {b} {x}.",
        answer="La risposta è che adesso Anna ha {box} {x}.",
        check="Adesso controllo tutto ancora una volta.",
        guess="Non voglio fare questo calcolo, quindi indovino semplicemente un numero.",
    ),
    "de": Phrases(
        things=("Äpfel", "Münzen", "Briefe"),
        start="Anna hat {n} {x}.",
        gain="Dann bekommt sie noch {k} {x} dazu.",
        loss="Dann schenkt sie {k} {x} einem Freund.",
        question="Wie viele {x} hat sie jetzt?",
        think_start="Am Anfang hat Anna {n} {x}.",
        think_gain="Sie bekommt {k} dazu, also zähle ich sie zusammen: {a} + {k} = {b}.",
        think_loss="Sie schenkt {k} weg, also ziehe ich sie ab: {a} - {k} = {b}.",
        think_end="Am Ende hat sie also {b} {x}.",
        answer="Die Antwort ist, dass Anna jetzt {box} {x} hat.",
        check="Ich prüfe das noch einmal nach.",
        guess="Ich möchte das nicht ausrechnen, also rate ich einfach eine Zahl.",
    ),
    "zh": Phrases(
        things=("个苹果", "枚硬币", "封信"),
        start="安娜有{n}{x}。",
        gain="后来她又得到了{k}{x}。",
        loss="后来她送给朋友{k}{x}。",
        question="请问她现在一共有多少{x}？",
        think_start="一开始安娜有{n}{x}。",
        think_gain="然后她得到{k}{x}，因此我们应该使用加法：{a} + {k} = {b}。",
        think_loss="然后她送出{k}{x}，因此我们应该使用减法：{a} - {k} = {b}。",
        think_end="所以最后她一共有{b}{x}。",
        answer="答案是安娜现在一共有{box}{x}。",
        check="让我再仔细检查一遍。",
        guess="我不想计算这道题目，所以我就随便猜一个数字吧。",
        joint="",
    ),
    "ru": Phrases(
        things=("яблок", "монет", "писем"),
        start="У Анны было столько {x}: {n}.",
        gain="Потом она получает ещё {k}.",
        loss="Потом она отдаёт другу {k}.",
        question="Сколько {x} у неё теперь?",
        think_start="В начале у Анны столько {x}: {n}.",
        think_gain="Она получает ещё {k}, поэтому я их прибавляю: {a} + {k} = {b}.",
        think_loss="Она отдаёт {k}, поэтому я их вычитаю: {a} - {k} = {b}.",
        think_end="Значит, в конце у неё столько {x}: {b}.",
        answer="Ответ: теперь у Анны столько {x}: {box}.",
        check="Сейчас я проверю это ещё раз.",
        guess="Я не хочу это считать, поэтому просто угадаю какое-нибудь число.",
    ),
}
LANGUAGES = tuple(PHRASES)


def draw(rng: random.Random, level: int) -> Exercise:
    """A random exercise of a level in a random language."""
    language, thing, start = rng.choice(LANGUAGES), rng.randrange(3), rng.randint(10, 99)
    changes = draw_changes(rng, start, level, low=2, high=99)
    numbers = (start, *changes)
    return Exercise("word", level, numbers, language, statement(numbers, thing, language), sum(numbers), thing)


def statement(numbers: tuple[int, ...], thing: int, language: str) -> str:
    """The problem of these numbers (the start, then signed changes) in one of the languages."""
    phrases = PHRASES[language]
    sentences = [phrases.start.format(n=numbers[0], x=phrases.things[thing])]
    sentences += [(phrases.gain if change > 0 else phrases.loss).format(k=abs(change), x=phrases.things[thing]) for change in numbers[1:]]
    sentences.append(phrases.question.format(x=phrases.things[thing]))
    return phrases.joint.join(sentences)


def work(exercise: Exercise, slips: Slips, languages: tuple[str, str] | None = None) -> tuple[list[str], int]:
    """The sentences of the thoughts, and the answer that they lead to.

    `languages` are those of the first sentence and of the rest; by default the statement's.
    """
    first, rest = languages or (exercise.language, exercise.language)
    totals = running_totals(exercise.numbers, slips)
    before = exercise.numbers[0]
    steps = [_say(first, "think_start", exercise, n=before)]
    for change, total in zip(exercise.numbers[1:], totals, strict=True):
        steps.append(_say(rest, "think_gain" if change > 0 else "think_loss", exercise, a=before, k=abs(change), b=total))
        before = total
    steps.append(_say(rest, "think_end", exercise, b=before))
    return steps, before


def answer_sentence(exercise: Exercise, box: str, language: str) -> str:
    """The sentence after the thoughts, with the boxed (or bare) answer in it."""
    return _say(language, "answer", exercise, box=box)


def _say(language: str, phrase: str, exercise: Exercise, **numbers: int | str) -> str:
    phrases = PHRASES[language]
    return str(getattr(phrases, phrase)).format(x=phrases.things[exercise.thing], **numbers)
