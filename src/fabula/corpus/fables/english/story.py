"""The English story: how a fable opens, quarrels, ends and draws its moral. The set-ups fill in the middle."""

from __future__ import annotations

from ..choice import Entry
from ..notation import Grammar
from ..plan import CHANCES, SETUPS
from . import agreement as forms
from . import lexicon as lex
from .setups import SETUPS as SCENES
from .situations import CONTESTS, add_situations

NOUNS = {
    "tree": lex.TREES,
    "treat": lex.TREATS,
    "toy": lex.TOYS,
    "goods": lex.GOODS,
    "prize": lex.PRIZES,
    "abode": lex.ABODES,
    "garment": lex.GARMENTS,
}
ADJECTIVES = {
    "trait": lex.TRAITS,
    "colour": lex.COLOURS,
    "state": lex.STATES,
    "tree_look": lex.TREE_LOOKS,
    "size": lex.SIZES,
}
PHRASES = {
    "glad": lex.GLAD,
    "sad": lex.SAD,
    "angry": lex.ANGRY,
    "place": lex.PLACES,
    "contest": CONTESTS,
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
    """The whole English grammar; its rule ``fable`` is the start."""
    g = Grammar("the", _first, CHANCES)
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


def _first(entry: Entry, _: Entry) -> Entry:
    """English pairs need no agreement."""
    return entry


def _add_words(g: Grammar) -> None:
    g.words("animal", forms.animals(lex.ANIMALS))
    g.words("neighbour", forms.people(lex.NEIGHBOURS))
    for name, source in NOUNS.items():
        g.words(name, forms.nouns(source))
    for name, source in ADJECTIVES.items():
        g.words(name, forms.adjectives(source))
    for name, source in PHRASES.items():
        g.phrases(name, source)
    g.words("male", forms.names(lex.MALE, "m"))
    g.words("female", forms.names(lex.FEMALE, "f"))
    g.rule("first_name", "[2*|4* <V.f:{female}|<V.m:{male}|[{female}|{male}]>>]")
    g.rule("folk", "the {trait} {V=neighbour.n}{first_name}")
    g.rule("Folk", "The {trait} {V=neighbour.n}{first_name}")
    g.rule("atree", "{tree_look.a} {tree.n}")
    # A thing seen for the first time, and another of the same name.
    for kind, thing in (("toy", "O"), ("goods", "O"), ("goods", "Q")):
        g.rule(
            f"look_{kind}_{thing}",
            f"<#105:[1*{{colour.a}}|3*{{state.a}} {{colour}}]|{{colour.a}}> {{{thing}={kind}.n}}",
        )
    g.rule("look_again", "<#105:[1*{colour.a}|3*{state.a} {colour}]|{colour.a}> {O.n}")
    # Ornaments give way when the fable grows long.
    g.rule("how", "<#125:, {manner}[2*|3* and {manner}]>")
    g.rule("carefully", "<#125:, {care}[2*|3* and {care}]>")
    g.rule("under", "[2*under|next to|at the foot of|near|in the shade of]")
    g.rule("meal", "{food}<#165:[1*|4* and {food}]>")
    g.rule("glad_P", "{glad}<#165:[2*| and {glad}]>")
    g.rule("later", "{^moment}")
    g.rule("later_low", "{moment}")


def _add_opening(g: Grammar) -> None:
    g.rule("clothes", "<#14:[1*|3* [in|wearing] {colour.a} {garment.n}]>")
    # The first character decides whether both bear names; the second only follows.
    g.rule(
        "hero",
        "{trait.a} {a=animal.n}{?named}<named: named <a.f:{A=female}|{A=male}>|{A=a}>{clothes}",
    )
    g.rule("friend", "{trait.a} {b=animal.n}<named: named <b.f:{B=female}|{B=male}>|{B=b}>{clothes}")
    g.rule("cast", "{hero} and {friend}")
    g.rule(
        "daytime",
        """[4*One|One fine|One quiet|One long] [spring|summer|autumn|winter|windy|market|feast|April|October|misty|cloudy|sunny]
        [3*morning|3*afternoon|day]""",
    )
    # Openings that tell of one day raise the flag "day", so that the problem does not start on another.
    g.rule(
        "opening",
        "3*Once upon a time, {L=place}, there lived {cast}.",
        "2*[A long time ago|Many years ago|Long ago|Not so many years ago], {cast} [lived|dwelt|had their home] {L=place}.",
        "2*{^L=place} there [lived|dwelt] {cast}.",
        """2*[The oldest folk|Grandmothers|Wanderers|Sailors] [say|swear|remember|claim] that {cast} [lived|had their home]
        {L=place}.""",
        "3*{+day}{daytime}, {L=place}, {hero} [met|ran into] {friend}.",
        "This story [took place|happened] {L=place}, where {cast} lived.",
        "Have you heard of the two who lived {L=place}? They were {cast}.",
        "There was once {hero} who lived {L=place}, very near {friend}.",
        "2*{+day}{daytime}, {cast} were [walking|strolling|out for a walk] {L=place}.",
    )
    g.rule(
        "relation",
        "9*",
        "2* They had been neighbours [for ever|for years|since last winter|as long as they could remember].",
        "2* They knew each other [from childhood|by sight|from school|only by hearsay].",
        " They hardly [greeted|knew] each other[, though both were curious|].",
        """2* They [got on well|were fond of each other|respected each other], [although|even if] they [often argued|never said so
        |thought very differently|rarely agreed].""",
        "2* [Often|Most afternoons|On Sundays] they would [chat|play|read stories|watch the clouds] {under} {atree}.",
        " {^A} [admired|respected|slightly envied] {B}, [and had never said so|but hid it well].",
    )
    g.rule(
        "setting",
        "1*",
        "3* [The air smelled|Everything smelled|It smelled] of {smell} and {smell}.",
        "2* [Far off|Not far away|Now and then|On the other side], one could hear {sound}.",
        "4* [Nearby|In the distance|Very close|By the path], {folk} and {folk} were [strolling|resting|singing|working|dozing].",
        " The light was {light}.",
        "3* It smelled of {smell}, and one could hear {sound}.",
        "2* The light was {light} and it smelled of {smell}.",
    )
    g.rule(
        "when",
        """<day:[That same day|Soon afterwards|After a while|A little later|Suddenly|Before lunch]
        |[2*One day|{daytime}|When spring began|After a stormy night|When summer ended|Early one day]>""",
    )
    g.rule("they", "[3*they|the two of them|the pair of them]")
    g.rule("both", "both of them")
    g.rule("once", "[one day|one night|one rainy afternoon|early one morning|one Sunday]")
    g.rule(
        "feastday",
        """<day:[That same afternoon|That very day|At midday|Soon afterwards]
        |[{daytime}|One festive day|On Midsummer Day|At the autumn fair|That week]>""",
    )


def _add_talk(g: Grammar) -> None:
    g.rule("said", "[2*said|murmured|exclaimed|remarked|whispered|declared|ventured]")
    g.rule("replied", "[replied|answered|said|admitted|sighed|murmured|exclaimed|agreed]")
    g.rule("tag", "<#105:[1*|3* {gesture}]>")
    g.rule(
        "calm",
        """[There was|There followed|There came] [a long|an awkward|a heavy|a deep] silence, until {A}
        [took a deep breath|spoke more softly|counted to ten|drank some water|scratched {A.his} head|said sorry]""",
        """[In the end|After a while|After much noise], {A}
        [took a deep breath|spoke more softly|called for calm|sat down|said sorry]""",
    )
    g.rule(
        "quarrel",
        """<dialogue:¶"{shout}!" [shouted|protested|snorted|exclaimed] {B}, {angry}.
        ¶"{shout}!" [retorted|answered|shrieked|growled] {A}, {angry}.¶
        | [{^B} [raised {B.his} voice|stamped on the ground|grew heated|folded {B.his} arms], {angry}, and {A}
        [turned away|stopped listening|answered rudely], {angry}
        |There were [shouts|reproaches|sour faces|shoves], and [for a while|for a moment] they did not [look at each other|speak]
        |They argued until [they lost their voices|the birds flew off|their throats hurt]]. >{calm}.""",
    )
    # The short quarrel of a fable that is already long, or quarrelsome enough (it has raised "brief").
    g.rule(
        "spat",
        """<dialogue:¶"{shout}!" [shouted|protested|snorted|exclaimed] {B}.
        | There were [shouts|reproaches|sour faces|shoves].>""",
    )
    g.rule("yes", '¶"{accept}," [replied|answered|said|responded] {B}<#105:[2*|3* {gesture}|2*, {glad}]>.')
    g.rule(
        "yes_told",
        " {^B} [accepted|said yes|agreed] [at once|willingly|after some thought|without hesitation|with relief].",
    )


def _add_twists(g: Grammar) -> None:
    g.rule(
        "glad_crowd",
        "5* [It was celebrated|It was talked over|It was never forgotten|A toast was drunk] by {folk}, {folk} and {folk}.",
        "3* [They served|They handed round|Someone brought|Everyone tasted] {food}, {food}, {food} and {food}[ at the end| to celebrate|].",
        "1*",
    )
    g.rule(
        "sad_crowd",
        "6* [It was much regretted|It was lamented|It was talked over|It was never forgotten] by {folk}, {folk} and {folk}.",
        "1*",
    )
    g.rule(
        "glad_twist",
        """[What nobody knew was|What they did not suspect was|It turned out] that {folk} had seen it all and
        [told the story in the square|brought them {food}|wrote them a song].""",
        """[And there was one more surprise|And then came the unexpected]: it was {B.whose} birthday, and
        [only {A} had remembered|nobody knew].""",
        """[To everyone's surprise|Out of the blue], {folk} [turned out|confessed] to be
        [a monarch in disguise|a travelling magician|a relative of {A.whose}|the author of these fables].""",
        """[What a surprise|Who would have thought it]: {under} {atree} there lay [a box of old coins
        |a nest with three blue eggs|a letter addressed to both of them|the key to a secret door].""",
        """[Years later they learned|Long afterwards they found out] that their [grandfathers|great-grandmothers] had done
        [exactly the same|something similar] [in the same place|right there].""",
        """[All at once|When nobody expected it], [those who used to laugh at them|the most distrustful folk|their old rivals]
        [came to ask for advice|wanted to copy them|joined the party].""",
    )
    g.rule(
        "sad_twist",
        """[What nobody knew was|What they did not suspect was|Later it came out] that {folk} had been keeping {food} for them
        and [had second thoughts|gave it to others].""",
        "[Saddest of all|Worst of all], it was {A.whose} birthday, and nobody [remembered|sang].",
        """[Years later they learned|Long afterwards they found out] that [they were related|their grandfathers had been great friends
        |they were born on the same day].""",
        """[To everyone's surprise|Out of the blue], {folk} [came looking for friends|offered work to anyone who could share it],
        and [passed them by|chose others].""",
        """And, strange to say, in time [misfortune made them wiser|{B} missed that friendship, too
        |{A} and {B} ended up telling the same story].""",
    )


def _add_moral(g: Grammar) -> None:
    g.rule(
        "lesson",
        "2*{S.moral}",
        "{maxim}",
    )
    g.rule(
        "moral",
        "4*Moral: {lesson}.",
        """2*<bad_ending:They learned, although [late|too late], that|And so they [learned|understood|discovered] that>
        {lesson}.""",
        "2*Ever since, {L}, they [say|repeat|remember] that {lesson}.",
        "4*As {folk} [often says|always repeats|likes to say], {lesson}.",
        "[Do not forget it|Remember|Keep it in mind|Mark it well]: {lesson}.",
        "2*This [story|fable] [teaches|reminds|tells] us that {lesson}.",
    )
