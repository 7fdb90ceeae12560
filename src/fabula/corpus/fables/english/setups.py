"""The twelve set-ups in English.

Each is a scene in six pieces: ``problem`` (what happens), ``proposal`` (what one of them suggests, spoken or
told), ``deed`` (how they carry it out), ``good`` and ``bad`` (how it ends), and ``moral`` (a clause that
            reads
well after "that" and after a colon). A and B are the characters, L the place, O and Q things.
"""

from __future__ import annotations

SETUPS: dict[str, dict[str, str]] = {
    "resource_sharing": {
        "problem": """{when}, {they} [found|came upon|discovered|picked up] {size.a} {O=treat.n}
            [by the road|{under} {atree}|behind a rock|in {abode}|under a giant leaf].
            [There was nothing else to eat|It was all the food left|At home there was nothing left
            |The harvest was still far off|Nothing else remained], and they were both
            [hungry|as hungry as wolves|ready to eat|starving].""",
        "proposal": """<dialogue:¶"[Let us share it|I will cut and you will choose|We had better go halves
            |I shall make two equal parts]," {said} {A}{tag}. "[That way nobody goes hungry|Then both of us
            will eat
            |I do not want to eat while you watch|If we fight, it will go bad|It is only fair]."{yes}
            | {^A} proposed to share it [half and half|fairly|equally|without arguing].{yes_told}>""",
        "deed": """[{^A} [divided|shared out|split] {O} [into two equal parts|down the middle|in half|with
            great justice]{carefully},
            and {B} [chose|picked] first. [Neither part was bigger|Not a crumb was left over
            |Even {folk} could have seen no difference]
            |{later}, they [measured|weighed] {O}{carefully}: half went to {A} and the other half to {B}
            |Across {O}, {A} drew a line with [a twig|a stick|a stone|one claw], and {B}
            [checked|confirmed|declared|certified] that it ran down the middle{carefully}.
            Each [took|received|carried off] one part].""",
        "good": """[They ate {under} {atree}, {glad_P}[, and there was even some left for {folk}|]
            |It tasted better than {food}, and they [took a nap|ended up singing|drank to it in water
            |licked their fingers], {glad_P}
            |{later}, {B} kept a little for {folk} and told the whole story, {glad}].""",
        "bad": """[But|However,|Sadly,|Alas,|Even so,] {B} came back [at night|in secret|on tiptoe|at the
            first chance] and
            [ate|gobbled|swallowed|took] {A.whose} share as well. [In the morning|At dawn|When the sun came
            up] there was
            [neither food nor trust|nothing left to share|not a crumb], and {A} [left|went away|walked off
            |departed], {sad}.""",
        "moral": """[what is shared [fairly|well|from the heart] [feeds|tastes|delights] twice as much
            |[whoever eats alone|whoever wants everything] [ends up without company|ends up with nothing]
            |half a loaf [with a friend|in company] is worth more than a whole one [alone|with nobody]
            |a table with two chairs [is never empty|is a banquet]
            |[to share|to divide] is not to lose]""",
    },
    "turn_taking": {
        "problem": """{when}, {they} [wanted|decided|longed] to [use|try|play with] {look_toy_O}
            that {folk} had [left|forgotten] [3*{under} {atree}|in {abode}].
            [Unfortunately,|The trouble was that|Of course,] [they could not both use it at once
            |there was no way to use it together|there was room for only one].""",
        "proposal": """<dialogue:¶"[Let us take turns|We can go by turns|We had better take turns|A little
            while each],"
            {said} {A}{tag}. "[You start and I will wait|When I count to a hundred, we will change
            |We shall have the same time|You first]."{yes}
            | {^A} proposed that they should [take turns|play by turns|each have a while].{yes_told}>""",
        "deed": """[First|To begin with,|{later},] {B} [played|had fun|was busy] with {O} while {A}
            [counted to a hundred|sang three songs|watched an hourglass|studied the shadow of {atree}
            |nibbled {food}|waited {care}].
            [Then they changed places|Then it was {A.whose} turn|Later they swapped][, and {B} waited
            without complaint
            |, and it was {B} who kept count|].<#140: [No turn was longer than another|Nobody cheated
            |The hours went by like this|There was not one complaint].>""",
        "good": """{later}, both had played for just as long and [went home|returned home|said goodbye],
            {glad_P}[, talking of the next day
            |, smelling of {smell}|, with red cheeks|].<#150: {^O} [never had an owner|belonged to whoever
            wished to play
            |slept that night in {abode}|stood ready for the morning].>""",
        "bad": """[But|However,|Sadly,|Alas,|Even so,] on the last turn {B} would not let go. {^A} pulled
            [one way|in a rage|hard],
            {B} pulled [the other way|harder], and {O} [broke|split|fell to pieces].<#165: [Nobody played
            again
            |The games were over|There were no more turns], and they [left|went home|parted], {sad} and
            {sad}.>""",
        "moral": """[knowing how to wait [is also playing|shortens the road|is half a victory]
            |whoever respects [another's turn|the turn of others] [enjoys a better one|never goes without]
            |what will not fit in two hands [at once can be shared by turns|can still take turns]
            |[impatience|hurry] breaks what patience [shares|joins]
            |[today is yours and tomorrow mine|everyone's turn comes]]""",
    },
    "complementary_skills": {
        "problem": """{when}, {they} [resolved|decided|wanted|set out] to {T=task}[ for {feast}|].
            {^A} [only knew|had only learned] how to {T.knack_a}; {B}, [however|on the other hand], only how
            to {T.knack_b}.
            [Separately they would not get far|Neither could do it alone|Each lacked one half
            |Neither could do the other's part].""",
        "proposal": """<dialogue:¶"[What I lack, you have|Each will do what each does best
            |Your gift and mine fit together|We need each other]," {said} {A}{tag}.
            "[I will {T.knack_a}.|Shall we join forces?|Let us work as a team.|Without you I cannot do it.
            |We shall be a fine team.]"{yes}
            | {^A} [suggested|proposed] that each should [do what each did best|lend a special gift
            |do one part].{yes_told}>""",
        "deed": """[With great skill|Without a mistake|With a sure touch|{later}], {B} {T.b}{how}.
            [Meanwhile|In the meantime|For {A.his} part|At the same time], {A} {T.a}{how}. {T.done}.""",
        "good": """[{Folk} asked whose work it was, and they [answered|replied] at the same time, {glad_P}
            |{later} they dined on {meal} and [went over|celebrated] every detail, {glad_P}
            |Never had {A} and {B} felt so [happy|proud|content|strong|useful|alive]
            |{later}, they [shared|enjoyed] {meal} with {folk}, {glad_P}].""",
        "bad": """[But|However,|Sadly,|Alas,|Even so,] {B} told [everyone in the square|the whole world
            |every passer-by] that
            [all the credit was {B.his}|{B.he} had done it alone|nobody had helped]. {^A} [left|went away
            |walked off], {sad},
            and the next piece of work [was left half done|was never begun|went wrong].""",
        "moral": """[where [one skill|one talent] falls short, two will reach
            |nobody knows everything, but [together we|two heads] know [much|more]
            |what you lack [may be what your neighbour has to spare|your neighbour may have]
            |differences [add up when they join|are tools]
            |two halves well joined [make a whole|are worth three]]""",
    },
    "trade": {
        "problem": """{when}, {A} [saw|found|realised] that {A.he} [needed|lacked|was missing] {Q=goods.a}
            for {errand},
            but {A.he} had only {look_goods_O} [to offer|in the house|to {A.his} name]. {^B}, [however|on
            the other hand],
            [kept|had|owned] {Q.a} [in {abode}|under the bed|from long ago] and
            [missed having|had long been looking for|wanted] {O.a}<#85: for {errand}>.""",
        "proposal": """<dialogue:¶"If you give me {Q.your}, I will give you {O.my}," {said} {A}{tag}. "[Is
            it a deal?
            |What do you say?|Take a good look at it.|We shall both gain.|Nobody will lose.|Shall we
            swap?]"{yes}
            | {^A} offered {O} in exchange for {Q}[, without tricks|, quite frankly|].{yes_told}>""",
        "deed": """[{^A} put {O} on [a stump|a flat stone|the table|the grass], {B} set {Q} beside it, and
            they [looked at|examined|inspected] everything{carefully}. They [shook hands|embraced], and the
            swap was made
            |{^B} [examined|tried|weighed] {O}{carefully}; {A} [checked|turned over] {Q}{carefully}.
            {later}, {O} was already {B.whose} and {Q} was {A.whose}].""",
        "good": """[{later}, {A} tried out {Q}, {glad}, and {B} would not part with {O}
            |A [month|year] later they were still so [happy|pleased|content|delighted] with the swap that they threw
            a party for {folk}
            |{Folk} wished to do the same, and soon there was a [merry|small|lively|famous] swap market
            there].""",
        "bad": """[But|However,|Sadly,|Alas,|Even so,] {Q} [was about to break|had a hidden flaw|was good
            for nothing], and {B} had
            kept it quiet. {^A} complained, {angry}, and {B} shrugged.
            From then on nobody [would make deals|traded|spoke] with {B}.""",
        "moral": """[a [fair|honest|clean] deal [leaves both sides happy|makes two friends]
            |what one has to spare [may be another's treasure|is what another needs]
            |trust [is the best coin|is worth more than the goods]
            |whoever trades without cheating [wins twice|sleeps well]
            |a good swap [has no losers|is made with clean hands]]""",
    },
    "joint_problem_solving": {
        "problem": """{when}, {they} [saw|discovered|learned|heard] that {T=snag.trouble}. {^A} tried alone
            [twice|three times|five times|seven times], [in vain|without success|to no avail]; {B} also
            [failed|gave up|ended up sitting down], {sad}.""",
        "proposal": """<dialogue:¶"[Alone we cannot do it|This is no job for one|Let us think a little|I
            have an idea],"
            {said} {A}{tag}. "[We must|We could|We should|Let us try to|We have to] {T.plan}."{yes}
            | [After much thought|At last|After drawing in the sand|{later}], they [agreed|decided|resolved]
            to {T.plan}.>""",
        "deed": """[Without delay,|At once,|No sooner said than done:] {A} {T.a}{how}, [while|just as] {B}
            {T.b}{how}.
            <#150:[It was hard|It was not easy|It took time|They sweated|They had doubts], but they [went on
            |did not lose heart
            |insisted]. >{T.solved}.""",
        "good": """[{Folk} [gave|brought|cooked] them {meal} by way of thanks
            |{later}, the two of them embraced, {glad_P}
            |{Folk} spoke of nothing else [for a week|until Sunday|all month]
            |They rested {under} {atree}, {glad_P}, and [laughed at the scare|shared {food}]].""",
        "bad": """[But|However,|Sadly,|Alas,|Even so,] they had [taken too long|agreed too late]:
            {folk} had already [gone away|lost everything|given up hope]. {^A} and {B} looked at each other,
            {sad} and {sad}.""",
        "moral": """[two who think together [see|are worth] double
            |[big|hard|heavy] problems [grow small|weigh less] between two
            |four eyes [find what two cannot see|see more than two]
            |strength without agreement [is wasted|moves nothing]
            |before giving up it is wise to ask for [help|advice]]""",
    },
    "communication": {
        "problem": """{when}, {A} [wanted|decided] to ask {B} for {O=goods.a} for {errand}, but {A.he}
            [spoke so fast
            |explained so little|made such odd signs|spoke with such a full mouth] that {B}
            [understood something else|understood nothing]. {later}, {B} [came back|returned|appeared] with
            {look_goods_Q}.""",
        "proposal": """<dialogue:¶"[Not that|We misunderstood each other|It was my fault|What a muddle],"
            {said} {A}{tag}.
            "[I will explain it better|Let me start again|I will speak more slowly|Listen carefully]: I need
            {O.a}."
            ¶"[Now I see!|I repeat: {O.a}!|{^O.a}? You should have said so!|Well, well!|Of course!]"
            [answered|replied|said|cried] {B}{tag}.
            | {^A} explained again, this time [slowly|with gestures|with a drawing], that {A.he} needed
            {O.a}, and {B}
            [repeated the request|asked questions] to [be sure|avoid confusion].>""",
        "deed": """[This time|Now|On the second try], {B} [listened to the end|wrote it on a leaf|repeated
            it word by word
            |took good note] and went [to see {folk}|to the market|to look for it], {pace}.
            {later}, {B} brought {look_again}<#140:[, just what was needed|, just as {A} wished|, and there
            were no more muddles]>.""",
        "good": """[{^A} said thank you with {meal}, and they laughed at the muddle, {glad_P}
            |The two of them [invented|agreed on] a signal: [three claps|a whistle|two knocks on the door|a
            wink]
            |With {O}, everything [went well|was easier], and {folk} [kept|inherited|bought] {Q}].""",
        "bad": """[But|However,|Sadly,|Alas,|Even so,] with so much coming and going [night had fallen|the
            hour had passed],
            and {O} was no longer any use.<#175: {^A} and {B} sat down [on the ground|{under} {atree}],
            {sad} and {sad}.>""",
        "moral": """[speaking clearly [saves a journey|avoids muddles|is what friends do]
            |whoever listens to the end [does not make two trips|gets it right the first time]
            |asking [costs nothing|is cheaper than being wrong]
            |one word well said is worth [a hundred errands|a thousand signs]
            |nobody can guess what [is not said|is kept quiet]]""",
    },
    "altruism": {
        "problem": """{when}, {B} lost {B.his} {O=goods.n}[ at the market| in the river| on the road|] and
            [did not know what to do
            |trembled with grief|wept {under} {atree}|could not go on|sat down to cry].
            {^A} had {look_again}, [but only one|the only one in the house|and was very fond of it].""",
        "proposal": """<dialogue:¶"[Take mine|Have mine|Here, take this one]: [it is a present|you can keep it
            |you need it more than I do]," {said} {A}{tag}.
            ¶"[And what will you do?|Will you not need it?|How can I ever thank you?|Do you mean it?|What a
            heart you have!]"
            [said|whispered|stammered|murmured] {B}, [touched|moved|amazed|grateful|wide-eyed].
            ¶"[I shall manage|That does not matter now|I have a warm house|One day you will help me]."
            | {^A} [thought for a moment|hardly hesitated|looked at the sky and sighed]: {B.whose} sorrow
            [worried|hurt] {A.him} more than being left with nothing.>""",
        "deed": """So {A} [handed {O} over|gave {O} away|put {O} in {B.his} hands] [in silence|gladly
            |without asking for anything|with a bow|with all {A.his} heart]. <#135:[{^A} also [gave|made] {B.him}
            {food} for the journey
            |Then {A} walked with {B.him} as far as [the spring|the crossroads|the last house]|{^A} also
            spoke of {folk}]. >{^B}
            [went on {B.his} way|set off|walked away], {pace}, {glad}.""",
        "good": """[Months later,|When winter came,|The next year,] {once}, it was {A} who
            [fell ill|got lost in the fog|ran out of firewood|was in trouble]; {B}
            [appeared|hurried there|came] [with {food}|with a light|without being called], {pace}.""",
        "bad": """[But|However,|Sadly,|Alas,|Even so,] {B} [never said thank you|forgot that favour] and
            [sold|lost|broke] {O}
            [at the first fair|within two days|without a thought]. {^A} heard of it from {folk} and was {sad},
            though {A.he} [had no regrets|would have done it again].""",
        "moral": """[the good one does [comes back by another road|is never lost]
            |giving what is left over is easy; giving what is needed is [generous|beautiful|hard]
            |whoever helps without expecting anything [has already received enough|sleeps better]
            |a generous heart [is never empty|is warmer than a blanket]
            |kindness does not [keep accounts|boast]]""",
    },
    "conflict_resolution": {
        "problem": """{+brief}{when}, {they} [found|came upon|spotted] {look_toy_O} {under} {atree}, and each
            [insisted|swore|said] that it was [theirs alone|a family treasure|the one lost last year].
            {^A} pulled [one way and {B} the other|to the right and {B} to the left], {angry} and {angry}.""",
        "proposal": """<dialogue:¶"[Let us find someone to listen|Let an outsider decide|We need a judge
            |Let us ask for advice]," {said} {A}{tag}.{yes}
            | [Tired of|Weary of|Hoarse from] quarrelling, they [decided|agreed] to ask for advice.>""",
        "deed": """{Folk} [listened first to {A} and then to {B}|let first {A} and then {B} speak]{carefully}.
            <#140:{^A} wanted {O} to {purpose}; {B}, to {purpose}. >They [agreed|decided|settled] that {O}
            would be {A.whose}
            [in the mornings and {B.whose} in the afternoons|on even days and {B.whose} on odd ones
            |in summer and {B.whose} in winter|one week and {B.whose} the next].""",
        "good": """[{later} they shook hands, {glad_P}|They sealed the peace with {meal}, {glad_P}
            |The two of them burst out laughing, {glad_P}
            |{later} there was {meal} to celebrate][, and nobody quarrelled over {O} again|].""",
        "bad": """[But|However,|Sadly,|Alas,|Even so,] [the very next day|on the third day|very soon] {B}
            [broke {B.his} word
            |broke the agreement] and hid {O} in {abode}. {^A} stopped [talking to|greeting] {B.him}, {sad},
            and {O} [gathered dust|rotted away|was covered with cobwebs].""",
        "moral": """[listening [is half an agreement|puts out more fires than water]
            |behind every shout there is [a reason|a wish] worth hearing
            |to make peace [one must open one's ears|it is enough to take the first step]
            |whoever yields a little [gains a lot|loses nothing]
            |a good agreement [outlasts a victory|is better than a good quarrel]]""",
    },
    "failed_cooperation": {
        "problem": """{when}, {they} [began|started|tried|wanted] to {T=task}[ for {feast}|] without
            [agreeing on anything|talking it over|making any plan]. [Both gave orders and nobody obeyed
            |Each worked in a different way|Each undid what the other did|They kept bumping into each other],
            and {later_low} everything [had collapsed|had gone wrong|was a disaster].""",
        "proposal": """<dialogue:¶"[We worked hard and badly|We made a mistake somewhere|It is not enough to
            be willing
            |How clumsy we have been]," [said|sighed|admitted|murmured|confessed] {A}, {sad}.
            ¶"[We had no plan|We did not listen|We wanted to do the same thing|Each went a separate way],"
            {replied} {B}{tag}. "[I will {T.knack_b}|Let us start again|Let us share out the work
            |Let us try another way]."
            | They [sat down|stopped] to think about what had [failed|gone wrong] and
            [shared out|divided|sorted out] the work.>""",
        "deed": """[On the second try|The next morning|With the new plan|After a rest], {A} {T.a}{how},
            and {B} {T.b}{how}. <#150:[Whenever in doubt, they asked|Before each step they warned each other
            |Nobody was in the way any more|Everything ran smoothly]. >{T.done}.""",
        "good": """[That failure had taught them more than [a hundred lectures|a book|ten teachers]
            |{later}, the two of them looked at each other, {glad_P}|{Folk} could not believe it][, and they
            celebrated with
            {meal}|, and they slept like logs|].""",
        "bad": """[But|However,|Sadly,|Alas,|Even so,] {B} grew tired [at once|very soon|too early] and went
            back to [doing things {B.his} own way
            |{B.his} old habits]. [A few days later|Within a week] nothing was left of that work, and {A}
            [gave up|let it be], {sad}.""",
        "moral": """[making mistakes in company [also teaches|hurts less]
            |a simple plan is worth more than [great strength|a thousand rushes]
            |whoever corrects in time [does not fail|arrives all the same]
            |working [long|hard] is not enough: one must work [in agreement|in step]
            |it is easier to recover from [mistakes|falls] [in company|with a plan]]""",
    },
    "non_cooperative_agent": {
        "problem": """{when}, {A} and [some other animals|the neighbours|half the village|{folk}] [set out
            |began] to {T=task}.
            {^B} [would not help|refused to lift a finger|lay down {under} {atree}]:
            {B.he} [preferred to sleep|felt far too important|was too lazy|wanted to eat {food}].""",
        "proposal": """<dialogue:¶"[Will you not help us?|We could use another pair of hands,|If you help,
            we shall finish sooner,
            |Will you lend a hand?]" {said} {A}{tag}.
            ¶"[Let the others work|I do not care to get tired|You will do it without me|That is none of my
            business|Tomorrow, perhaps],"
            [yawned|answered|grumbled|growled|muttered] {B}.
            | {^A} asked for help [twice|three times|several times], but [{B} pretended not to hear
            |{B} always had an excuse|it was in vain].>""",
        "deed": """[So|And so|That is why] {A} {T.a}{how}, and {folk} [came|helped|offered] to {T.knack_b}.
            {T.done}, and {B} [was dying of envy|watched from afar|had nothing to celebrate|gritted {B.his}
            teeth].""",
        "good": """{later}, {B} came up, {sad}, and [apologised|asked if {B.he} could still help].
            They [gave {B.him} a broom|made room for {B.him}|offered {B.him} {meal}], and [ever since|from
            that day on] it was {B}
            who [arrived first|rose earliest|helped most].""",
        "bad": """{later}, {B} tried to [take advantage of|enjoy] it all, but [nobody allowed it|they closed
            the door on {B.him}
            |{folk} said no]. {^B} [left|walked away] alone, {sad}, while the others [dined on|shared
            |savoured] {meal}.""",
        "moral": """[whoever does not sow [cannot ask for the harvest|watches others eat]
            |laziness [dines alone|has an empty table]
            |it is never too late to lend a hand[, but sooner is better|, though it is wise not to wait]
            |whoever only watches [is left outside|misses the feast]
            |what nobody helps to carry weighs [double|more]]""",
    },
    "win_lose": {
        "problem": """{when}, {folk} [announced|let it be known|proclaimed] that {state.a} {O=prize.n} would
            [be given|go]
            to [one neighbour only|a single winner]. {^A} [wanted|longed for] it [more than anything|with
            all {A.his} heart|as never before
            |to {purpose}], and so did {B}. [It could not be divided|There was no other like it].""",
        "proposal": """<dialogue:¶"[Let us draw lots|Let luck decide|We can each draw a straw|The fair thing
            is
            a draw]," {said} {A}{tag}. "[And the loser will not be angry|Whatever happens, nothing will
            change between us
            |Let us promise to bear no grudge|No tricks and no sulking]."{yes}
            | Since [there was no other way|someone had to lose], they [agreed|decided] to draw lots.>""",
        "deed": """They [tossed a coin|drew straws|put two stones in a bag|threw a die] [with bated breath
            |with closed eyes|with trembling hands|before {folk}], and [{B} won|luck chose {B}].
            {^A.whose} [heart sank|eyes filled with tears|throat tightened], but {A.he}
            [offered a hand|clapped|kept the promise]. {^B} [received|lifted] {O} without [boasting
            |mockery].""",
        "good": """{later}, {B} [invited {A} to {meal}|shared {meal} with {A}] and said that [this, too, was
            winning
            |there is no prize without friends|nobody had ever lost so gracefully],
            and {A} [went|walked] [home|back home], {glad}.""",
        "bad": """[But|However,|Sadly,|Alas,|Even so,] [as days went by|little by little] {A} filled with
            [spite|envy|bitterness] and stopped
            [talking to|greeting] {B}. {^B} was left with {O} and no [friends|one to celebrate with],
            {sad}.""",
        "moral": """[one cannot always win, but one can always [lose well|lose nobly]
            |some prizes fit in one hand only, [and some friendships fit in two|but friendship is not one of
            them]
            |whoever loses gracefully [keeps the best part|never loses everything]
            |winning gives no right to [boast|forget the loser]
            |luck hands out the prizes, but [dignity|grace|courage] is our own]""",
    },
    "fair_competition": {
        "problem": """{feastday} [it was time for|came|everyone gathered for] {contest}, and {both} [signed
            up|put their names down|got ready].
            [The prize was|One could win|The winner would get|At stake was] {state.a} {O=prize.n}.
            [Nobody trained so hard|They had practised for weeks|Both dreamed of winning],
            and {folk} [led the jury|watched over the rules|counted the points].""",
        "proposal": """<dialogue:¶"[May the better one win|Let us promise to play fair|No tricks|Good luck],"
            {said} {A}{tag}. "[Then the prize will taste of glory|What matters is to do our best|And no hard
            feelings]."{yes}
            | [Before starting|At the starting line|Beforehand] they [promised to play fair|wished each
            other luck
            |went over the rules] and shook hands.>""",
        "deed": """[During the contest|In the thick of it|Halfway through], {B} [felt dizzy|ran out of
            strength
            |felt unwell|began to tremble], and {A}, [instead of taking advantage|though {A.he} was ahead
            |who could have gained by it], [stopped to help|waited for {B.him} to recover|asked for a pause].
            [Then|Afterwards] they [went on|continued|carried on], {manner}. [By a whisker|By a hair's
            breadth|By very little|In the end],
            {B} [won|triumphed|came first].""",
        "good": """[{^B} [split the applause in two|climbed the podium with {A}|raised {A.whose} hand], and
            both were
            {glad_P}
            |{^A} was the first to congratulate {B}, {glad}, and they [dined|feasted] on {meal}
            |The audience [cheered for both|rose to its feet], and {A} smiled, {glad}].""",
        "bad": """[But|However,|Sadly,|Alas,|Even so,] {B} had [cheated|fooled everyone|only pretended], and
            {folk}
            [found out|saw it all|noticed]. {^B} was left without {O} and without [applause|friends], and
            {A} [left|went away|walked off], {sad}<#180:,
            before [the end of the feast|the music ended]>.""",
        "moral": """[winning [cleanly|without tricks] is worth more than [any prize|a thousand medals]
            |today's rival [may be tomorrow's friend|makes us better]
            |a victory won by cheating [weighs more than a defeat|cheers nobody]
            |whoever gives a hand to the fallen [never comes last|wins even in defeat]
            |to compete is not to [fight|hate]]""",
    },
}
