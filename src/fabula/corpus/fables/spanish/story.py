"""The Spanish story: how a fable opens, quarrels, ends and draws its moral. The set-ups fill in the middle."""

from __future__ import annotations

from ..notation import Grammar
from ..plan import CHANCES, SETUPS
from . import agreement as forms
from . import lexicon as lex
from .setups import SETUPS as SCENES
from .situations import CONTESTS, add_situations

NOUNS = {
    "animal": lex.ANIMALS,
    "place": lex.PLACES,
    "tree": lex.TREES,
    "treat": lex.TREATS,
    "toy": lex.TOYS,
    "goods": lex.GOODS,
    "prize": lex.PRIZES,
    "neighbour": lex.NEIGHBOURS,
    "abode": lex.ABODES,
    "garment": lex.GARMENTS,
    "contest": CONTESTS,
}
ADJECTIVES = {
    "trait": lex.TRAITS,
    "colour": lex.COLOURS,
    "state": lex.STATES,
    "tree_look": lex.TREE_LOOKS,
    "size": lex.SIZES,
    "glad": lex.GLAD,
    "sad": lex.SAD,
    "angry": lex.ANGRY,
}
PHRASES = {
    "manner": lex.MANNERS,
    "care": lex.CARES,
    "pace": lex.PACES,
    "gesture": lex.TAGS,
    "accept": lex.ACCEPTS,
    "moment": lex.LATERS,
    "feast": lex.FEASTS,
    "errand": lex.ERRANDS,
    "purpose": lex.PURPOSES,
    "shout": lex.SHOUTS,
    "saying": lex.SAYINGS,
    "maxim": lex.MAXIMS,
    "food": lex.FOODS,
    "smell": lex.SMELLS,
    "sound": lex.SOUNDS,
    "light": lex.LIGHTS,
}


def grammar() -> Grammar:
    """The whole Spanish grammar; its rule ``fable`` is the start."""
    g = Grammar("el", forms.both, CHANCES)
    _add_words(g)
    _add_opening(g)
    add_situations(g)
    _add_talk(g)
    g.scenes("setup", {key: SCENES[key] for key in SETUPS})
    _add_twists(g)
    _add_moral(g)
    g.rule(
        "fable",
        "{opening}<#19:{relation}><#27:{?foreshadowing}<foreshadowing: {M=omen.sign}>><#36:{setting}>"
        "¶{S=setup.problem}{?dialogue}{?conflict}<conflict:<brief:{spat}|<#76:{quarrel}|{spat}>>>{S.proposal}"
        "¶{S.deed}"
        "¶{?bad_ending}<bad_ending:{S.bad}|{S.good}>"
        "<foreshadowing:<#201: <bad_ending:{M.bad}|{M.good}>>>"
        "<#180:{?twist}<twist: <bad_ending:{sad_twist}|{glad_twist}>>>"
        "<#173:<bad_ending:{sad_crowd}|{glad_crowd}>>"
        "<#191:{?moral}<moral:¶{moral}>>",
    )
    return g


def _add_words(g: Grammar) -> None:
    for name, source in NOUNS.items():
        g.words(name, forms.nouns(source))
    for name, source in ADJECTIVES.items():
        g.words(name, forms.adjectives(source))
    for name, source in PHRASES.items():
        g.phrases(name, source)
    g.words("male", forms.names(lex.MALE, feminine=False))
    g.words("female", forms.names(lex.FEMALE, feminine=True))
    g.rule("first_name", "<V.f:{female}|{male}>")
    g.rule("folk", "[2*{V=neighbour} {trait@V}|4*{V:neighbour}{V.la} {trait@V} {V.n} {first_name}]")
    g.rule("Folk", "[2*{^V=neighbour} {trait@V}|4*{V:neighbour}{^V.la} {trait@V} {V.n} {first_name}]")
    g.rule("folk_of", "[2*{V=neighbour.del} {trait@V}|4*{V:neighbour}{V.dela} {trait@V} {V.n} {first_name}]")
    g.rule("atree", "{U=tree.un} {tree_look@U}")
    for thing in "OQ":
        g.rule(f"look_{thing}", f"{{colour@{thing}}}<#105:[1*|3* y {{state@{thing}}}]>")
    # Ornaments give way when the fable grows long.
    g.rule("how", "<#125:, {manner}[2*|3* y {manner}]>")
    g.rule("carefully", "<#125:, {care}[2*|3* y {care}]>")
    g.rule("under", "[2*bajo|junto a|al pie de|cerca de|a la sombra de]")
    g.rule("meal", "{food}<#165:[1*|4* y {food}]>")
    g.rule("glad_P", "{glad@P}<#165:[3*| y {glad@P}]>")
    g.rule("later", "{^moment}")
    g.rule("later_low", "{moment}")


def _add_opening(g: Grammar) -> None:
    g.rule("clothes", "<#14:[1*|3* con {W=garment.un} {colour@W}]>")
    # The first character decides whether both bear names; the second only follows.
    g.rule(
        "hero",
        "{a=animal.un} {trait@a}{?named}<named: <a.f:llamada {A=female}|llamado {A=male}>|{A=a}>{clothes}",
    )
    g.rule(
        "friend",
        "{b=animal.un} {trait@b}<named: <b.f:llamada {B=female}|llamado {B=male}>|{B=b}>{P=A+B}{clothes}",
    )
    g.rule("cast", "{hero} y {friend}")
    g.rule(
        "daytime",
        """[4*Una mañana|3*Una tarde|Cierto día|Un domingo|Un sábado]
        [de primavera|de verano|de otoño|de invierno|de mucho viento|de mercado|de fiesta|de abril|de octubre
        |de vendimia|de niebla|de nubes blancas|de feria|de sol]""",
    )
    # Openings that tell of one day raise the flag "day", so that the problem does not start on another.
    g.rule(
        "opening",
        "3*Había una vez, en {L=place}, {cast}.",
        "2*[Hace mucho tiempo|Hace muchos años|Tiempo atrás|Hace no tantos años], {cast} [vivían|habitaban|tenían su hogar] en {L=place}.",
        "2*En {L=place} [vivían|habitaban|tenían su hogar] {cast}.",
        """2*[Cuentan|Dicen|Recuerdan|Aseguran] [los más viejos|las abuelas|los caminantes|los marineros] que en
        {L=place} [vivían|tenían su casa] {cast}.""",
        "3*{+day}{daytime}, {hero} se [encontró|cruzó] en {L=place} con {friend}.",
        "2*{+day}Cuando {hero} llegó {L=place.al}, {friend} ya estaba allí.",
        "Esta historia [sucedió|ocurrió|pasó] en {L=place}, donde vivían {cast}.",
        "¿Habéis oído hablar {L=place.del}? Allí [vivían|tenían su casa] {cast}.",
        "Érase que se era {hero}, que [vivía|tenía su casa] en {L=place}, muy cerca de {friend}.",
        "2*{+day}{daytime}, {cast} paseaban por {L=place}.",
    )
    g.rule(
        "relation",
        "9*",
        "2* Eran vecin{P.os} desde [siempre|hacía años|el invierno anterior|que tenían memoria].",
        "2* Se conocían [desde la infancia|de vista|de la escuela|de toda la vida|solo de oídas].",
        " Apenas se [saludaban|conocían|habían hablado][, aunque sentían curiosidad|].",
        """2* Se [llevaban bien|querían mucho|tenían aprecio], [aunque|si bien] [discutían a menudo|no lo decían
        |pensaban de manera muy distinta|rara vez estaban de acuerdo].""",
        "2* [A menudo|Muchas tardes|Los domingos] [charlaban|jugaban|leían cuentos|miraban las nubes] {under} {atree}.",
        " {^A} [admiraba|respetaba|envidiaba un poco] {B.al}, [y nunca se lo había dicho|pero lo disimulaba].",
    )
    g.rule(
        "setting",
        "1*",
        "3* [El aire olía|Todo olía|Olía] a {smell} y a {smell}.",
        "2* [A lo lejos|No muy lejos|De vez en cuando|Al otro lado] se oía {sound}.",
        "4* [Por allí|A lo lejos|Muy cerca|No muy lejos] [paseaban|descansaban|cantaban|trabajaban|dormitaban] {folk} y {folk}.",
        " La luz era {light}.",
        "3* Olía a {smell} y se oía {sound}.",
        "2* La luz era {light} y olía a {smell}.",
    )
    g.rule(
        "when",
        """<day:[Aquel mismo día|Poco después|Al cabo de un rato|Al poco rato|De repente|Antes de comer]
        |[2*Un día|{daytime}|Al empezar la primavera|Tras una noche de tormenta|Cuando acabó el verano|Una madrugada]>""",
    )
    g.rule("once", "[un día|cierta noche|una tarde de lluvia|una madrugada|un domingo]")
    g.rule(
        "feastday",
        """<day:[Aquella misma tarde|Ese mismo día|A mediodía|Al poco rato]
        |[{daytime}|El último domingo|Por San Juan|En la feria de otoño|Aquella semana]>""",
    )


def _add_talk(g: Grammar) -> None:
    g.rule("said", "[2*dijo|propuso|sugirió|murmuró|exclamó|comentó|susurró|empezó]")
    g.rule("replied", "[respondió|contestó|dijo|repuso|admitió|suspiró|murmuró|exclamó|reconoció]")
    g.rule("tag", "<#105:[1*|3*, {gesture}]>")
    g.rule(
        "calm",
        """[Hubo|Siguió|Se hizo] un [largo|incómodo|pesado|hondo] silencio, hasta que {A}
        [respiró hondo|bajó la voz|contó hasta diez|bebió un poco de agua|se rascó la cabeza|pidió perdón]""",
        """[Al fin|Al cabo de un rato|Después de mucho ruido], {A}
        [respiró hondo|bajó la voz|pidió calma|se sentó|pidió perdón]""",
    )
    g.rule(
        "quarrel",
        """<dialogue:¶—¡{shout}! —[gritó|protestó|bufó|exclamó] {B}, {angry@B}.
        ¶—¡{shout}! —[replicó|respondió|chilló|gruñó] {A}, {angry@A}.¶
        | [{^B} [alzó la voz|dio una patada al suelo|se enfadó|cruzó los brazos], {angry@B}, y {A}
        [le dio la espalda|se tapó los oídos|contestó de malos modos], {angry@A}
        |Hubo [gritos|reproches|malas caras|empujones], y [durante un rato|por un momento] no se [miraron|hablaron]
        |Discutieron hasta [perder la voz|espantar a los pájaros|que les dolió la garganta]]. >{calm}.""",
    )
    # The short quarrel of a fable that is already long, or quarrelsome enough (it has raised "brief").
    g.rule(
        "spat",
        "<dialogue:¶—¡{shout}! —[gritó|protestó|bufó|exclamó] {B}.| Hubo [gritos|reproches|malas caras|empujones].>",
    )
    g.rule("yes", "¶—{accept} —[respondió|contestó|dijo|asintió|repuso] {B}<#105:[2*|3*, {gesture}|2*, {glad@B}]>.")
    g.rule(
        "yes_told",
        " {^B} [aceptó|dijo que sí|estuvo de acuerdo] [enseguida|de buena gana|tras pensarlo un poco|sin dudarlo|con alivio].",
    )


def _add_twists(g: Grammar) -> None:
    g.rule(
        "glad_crowd",
        "5* [Lo celebraron|Lo comentaron|No lo olvidaron|Brindaron por ello|Se alegraron] {folk}, {folk} y {folk}.",
        "3* [Hubo|Sirvieron|Repartieron|Sacaron] {food}, {food}, {food} y {food}[ para todos| para celebrarlo|].",
        "1*",
    )
    g.rule(
        "sad_crowd",
        "6* [Lo supieron|Lo lamentaron|Lo comentaron|No lo olvidaron] {folk}, {folk} y {folk}.",
        "1*",
    )
    g.rule(
        "glad_twist",
        """[Lo que nadie sabía era|Lo que no sospechaban era|Y resultó] que {folk} lo había visto todo, y
        [contó la historia en la plaza|les llevó {food}|les escribió una canción].""",
        """[Y aún quedaba una sorpresa|Y entonces llegó lo inesperado]: era el cumpleaños {B.del}, y
        [solo {A} se había acordado|nadie lo sabía].""",
        """[Por sorpresa|De improviso], {folk} [resultó ser|confesó ser]
        [<V.f:la reina disfrazada|el rey disfrazado>|<V.f:una maga viajera|un mago viajero>|pariente {A.del}
        |quien escribía estas fábulas].""",
        """[Y vaya sorpresa|Y quién lo diría]: {under} {atree} apareció [una caja de monedas antiguas
        |un nido con tres huevos azules|una carta dirigida a l{P.os} dos|la llave de una puerta secreta].""",
        """[Años después supieron|Mucho después descubrieron] que sus [abuelos|bisabuelas] habían hecho
        [exactamente lo mismo|un pacto parecido] [en el mismo sitio|allí mismo].""",
        """[De pronto|Sin que nadie lo esperara], [quienes solían burlarse de ell{P.os}|los más desconfiados del lugar
        |sus viejos rivales] [se acercaron a pedirles consejo|quisieron imitarl{P.os}|se unieron a la fiesta].""",
    )
    g.rule(
        "sad_twist",
        """[Lo que nadie sabía era|Lo que no sospechaban era|Más tarde se supo] que {folk} les guardaba {food},
        y [cambió de idea|se lo dio a otros].""",
        "[Y lo más triste|Y lo peor]: era el cumpleaños {A.del}, y nadie [lo recordó|le cantó].",
        """[Años después supieron|Mucho después descubrieron] que [eran parientes|sus abuelos habían sido grandes amigos
        |habían nacido el mismo día].""",
        """[Por sorpresa|De improviso], {folk} [llegó buscando amigos|ofreció trabajo a quien supiera colaborar],
        y [pasó de largo|eligió a otros].""",
        """Y, cosa extraña, con el tiempo [la desgracia l{P.os} volvió más prudentes
        |también {B} echó de menos aquella amistad|{A} y {B} acabaron contando la misma historia].""",
    )


def _add_moral(g: Grammar) -> None:
    g.rule(
        "lesson",
        "2*{S.moral}",
        "{maxim}",
    )
    g.rule(
        "moral",
        "4*Moraleja: {lesson}.",
        """2*<bad_ending:Aprendieron, aunque [tarde|a destiempo], que|Y así [aprendieron|comprendieron|descubrieron] que>
        {lesson}.""",
        "2*Desde entonces, en {L} se [dice|repite|cuenta] que {lesson}.",
        "4*Como [suele decir|repite siempre|dice a menudo] {folk}, {lesson}.",
        "[No lo olvides|Recuérdalo|Tenlo presente|Que no se te olvide]: {lesson}.",
        "2*Esta [historia|fábula] nos [enseña|recuerda|dice] que {lesson}.",
    )
