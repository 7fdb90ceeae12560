"""What is a word, a sentence, a function word? For cleaning and for the report on what a corpus is made of."""

from __future__ import annotations

import re

# Letters and digits of any script, also with an apostrophe or a hyphen between them.
WORD = re.compile(r"[^\W_]+(?:['’\-][^\W_]+)*")
# A sentence ends at a mark (with what closes behind it) before white space, or at a line end.
_SENTENCE_END = re.compile(r"""(?<=[.!?…])["'”’»)\]]*\s+|\n+""")


def words(text: str) -> list[str]:
    """The words of a text in lower case, in their order.

    >>> words("¡Había 2 vez-veces, D'Artagnan!")
    ['había', '2', 'vez-veces', "d'artagnan"]
    """
    return WORD.findall(text.lower())


def sentences(text: str) -> list[str]:
    """The sentences of a text, roughly: an abbreviation ends one too.

    >>> sentences("Uno. «¿Dos?» Tres\\ncuatro")
    ['Uno.', '«¿Dos?»', 'Tres', 'cuatro']
    """
    found, start = [], 0
    for end in _SENTENCE_END.finditer(text):
        if "\n" not in end[0] and text[end.end() : end.end() + 1].islower():
            continue  # "What?" he said
        found.append((text[start : end.end()]).strip())
        start = end.end()
    found.append(text[start:].strip())
    return [sentence for sentence in found if sentence]


def _set(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Words that say nothing about what a text is about, by language.
FUNCTION_WORDS: dict[str, frozenset[str]] = {
    "es": _set(
        """a al algo alguien algún alguna algunas alguno algunos allá allí ahí aquel aquella aquellas aquello aquellos
        aquí así aún aunque ante antes apenas aparte atrás bajo bastante bien cabe cada casi cerca como cómo con
        conmigo conseguir consigo contigo contra cosa cosas cual cuál cuales cualquier cualquiera cuan cuando
        cuándo cuanta cuantas cuanto cuánto cuantos de debe deben deber debía decía decir del delante demás
        demasiado dentro desde después detrás dice dicen dicho dice dijo dijeron donde dónde durante e el él
        ella ellas ello ellos empezó en encima encontró enseguida entonces entre era eran eres es esa esas ese
        eso esos esta está estaba estaban estado estamos están estar estará estas éste éstos esto estos estoy
        estuvo fin fue fuera fueron fuese ha haber había habían habrá habría hace hacen hacer hacia hacía han
        has hasta hay haya he hecho hemos hice hicieron hizo hubo iba iban igual ir jamás junto juntos la las le
        les lejos lo los luego más mas me menos mi mí mía mientras mío mis misma mismas mismo mismos modo
        momento mucha muchas mucho muchos muy nada nadie ni ningún ninguna ninguno no nos nosotros nuestra
        nuestras nuestro nuestros nunca o os otra otras otro otros para parecía parte pero poca pocas poco pocos
        poder podía podían por porque primero primera pudo puede pueden pues puesto que qué quedó quería quien
        quién quienes quiere quiso quizá quizás sabe saber sabía se sé sea sean según ser será sería si sí sido
        siempre siendo siguiente sin sino sobre sola solo sólo solos son soy su sus suya suyas suyo suyos tal
        tales también tampoco tan tanta tantas tanto tantos te tenemos tener tenía tenían tengo ti tiene tienen
        tienes toda todas todavía todo todos tras tu tú tus tuvo tuya tuyo u un una unas uno unos usted ustedes
        va vamos van varias varios ve veces ver vez vi vino vio vosotros voy vuestra vuestro y ya yo""".lower()
    ),
    "en": _set(
        """a about above across after again against all almost alone along already also although always am among an and
        another any anyone anything are aren't around as asked at away back be became because become been before
        began behind being below between both but by came can can't cannot come could couldn't did didn't do
        does doesn't doing don't done down during each either else enough even ever every everyone everything
        few first for found from further gave get gets give go goes going gone got had hadn't has hasn't have
        haven't having he he'd he'll he's her here hers herself him himself his how however i i'd i'll i'm i've
        if in inside into is isn't it it's its itself just kept knew know last less let let's like little long
        looked made make makes many may maybe me might more most much must my myself near never new next no none
        nor not nothing now of off often oh on once one only onto or other others our ours ourselves out over
        own part per perhaps put quite rather really s said same saw say says see seemed she she'd she'll she's
        should shouldn't since so some someone something sometimes soon still such t take taken than that that's
        the their theirs them themselves then there there's therefore these they they'd they're they've thing
        things this those though through thus to together told too took toward towards two under until up upon
        us used using very want wanted was wasn't way we we'd we'll we're we've well went were weren't what when
        where whether which while who whom whose why will with within without won't would wouldn't yes yet you
        you'd you'll you're you've your yours yourself"""
    ),
}
EMPTY_WORDS = frozenset().union(*FUNCTION_WORDS.values())
