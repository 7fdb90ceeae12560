"""English situations: tasks that need two, things that go wrong, contests, and omens with their fulfilment.

Each situation keeps its goal, what each of the two does and how it turns out, so that cause and effect agree.
"""

from __future__ import annotations

from ..notation import Grammar

# goal and knacks are infinitives; a and b complete "A ..." and "B ..." in the past; done is a sentence.
TASKS: tuple[tuple[str, str, str, str, str, str], ...] = (
    ("build a raft", "tie knots", "choose timber", "tied the logs with sailors' knots", "picked out the driest logs",
     "The raft floated like a cork"),
    ("prepare a banquet", "light a fire", "season stews", "lit a fire of thin twigs",
     "put just the right spices in the pot", "The banquet was delicious"),
    ("put on a puppet show", "sew", "imitate voices", "sewed the puppets' costumes",
     "gave a voice to the king and the witch", "The show ended to loud applause"),
    ("mend the school roof", "drive nails", "cut boards", "nailed the tiles one by one", "cut the boards to size",
     "The roof stood firm and let in no rain"),
    ("make a giant kite", "fold paper", "read the wind", "folded the paper like a handkerchief",
     "found the best current of air", "The giant kite rose to the clouds"),
    ("write a song", "make up verses", "find melodies", "made up verses about the moon", "found a catchy melody",
     "The song was heard at every window"),
    ("reach the highest lookout", "read maps", "follow tracks", "unfolded the map at every crossroads",
     "followed the tracks of the flocks", "The lookout appeared at last with the whole world below"),
    ("paint a mural", "draw", "mix colours", "drew the figures in charcoal", "mixed colours never seen before",
     "The mural filled the wall with joy"),
    ("repair the tower clock", "clean cogs", "tune bells", "cleaned the cogs with a brush", "tuned the great bell",
     "The clock struck the hour again"),
    ("grow a vegetable garden", "plough", "look after seeds", "ploughed the earth in straight furrows",
     "sowed and watered the seeds", "The garden filled with tomatoes and cucumbers"),
    ("make a lantern", "bend wire", "melt wax", "bent the wire into the shape of a flower",
     "melted the wax for the candle", "The lantern shone all night long"),
    ("weave a tapestry", "spin wool", "dye wool", "spun the wool on a wheel", "dyed the yarn with onion and beetroot",
     "The tapestry warmed the coldest hall"),
    ("print a newspaper", "write the news", "work the press", "wrote the news in a fine hand",
     "inked the plates of the press", "The newspaper went from door to door"),
    ("bake bread for the fair", "knead dough", "watch the oven", "kneaded the dough until it was light",
     "watched the oven without blinking", "The bread came out golden and crisp"),
    ("raise a stone bridge", "carve stone", "plan arches", "carved the stones with a chisel",
     "worked out the curve of the arches", "The bridge bore the weight of seven carts"),
    ("tame an old watermill", "grease wheels", "turn a stream", "greased the sleeping wheels",
     "turned the stream with a sluice", "The mill woke with a long wooden yawn"),
    ("open a library", "bind books", "read aloud", "bound the broken books", "read the first page aloud",
     "The library filled with readers"),
    ("set up a circus", "juggle", "play the cymbals", "juggled seven plums",
     "clashed the cymbals at just the right moment", "The audience laughed until it cried"),
)  # fmt: skip

# trouble: "... " in the past; plan: infinitive for the two; a, b: what each does; solved: sentence.
SNAGS: tuple[tuple[str, str, str, str, str], ...] = (
    ("[an enormous|a fallen|a rotten] log blocked the road", "use a pole as a lever", "pushed the pole under the log",
     "set a stone for it to rest on", "The log rolled downhill and the road was free"),
    ("the barn door was stuck", "grease the hinges and push together", "greased the hinges with lard",
     "leaned hard against the wood", "The door opened with a groan"),
    ("the flour cart had sunk in the mud", "lay branches under the wheels", "laid dry branches under the wheels",
     "pulled on the reins", "The cart came out of the mud with a pop"),
    ("the flood had carried off three planks of the bridge", "put in new planks", "measured the gaps with a string",
     "nailed down the new planks", "The bridge joined the two banks again"),
    ("the waterwheel had stopped", "clear the channel and turn the wheel", "took the leaves out of the channel",
     "set the wheel turning", "The wheel began to move and the water ran again"),
    ("a flock had got lost in the fog", "ring a bell and carry a lantern", "rang the bell", "held up the lantern",
     "The lost flock followed the sound and the light home"),
    ("rain was dripping into the school", "climb the roof by turns", "held the ladder steady",
     "filled the holes with clay and straw", "It stopped raining inside the school"),
    ("the barn key had fallen into a crack", "tie a magnet to a thread", "tied a magnet to a long thread",
     "lit the crack with a candle", "The key came up on the magnet"),
    ("the big boat was leaking", "bail it out and plug the leak", "bailed out the water with a pail",
     "plugged the leak with resin", "The boat floated again, dry and proud"),
    ("a rock covered the spring", "dig all around it", "dug on the right", "dug on the left",
     "The rock gave way and the water gushed out"),
    ("the wind had tangled all the nets in the harbour", "undo the knots from both ends", "untangled one end",
     "untangled the other", "The nets lay spread out in the sun"),
    ("a swarm had settled in the chimney", "make a little smoke and offer a hive", "lit a handful of damp grass",
     "held out an empty hive", "The swarm moved house without stinging anyone"),
    ("nobody could open the chest in the town hall", "turn both keys at once", "turned the iron key",
     "turned the bronze key", "The chest opened, and there were the lost books"),
    ("the hail had flattened the rose bushes", "prop them up with canes", "held up the stems", "tied the canes",
     "The roses looked at the sky again"),
)  # fmt: skip

CONTESTS = """
the sack race, the singing contest, the race to the mill, the chess tournament, the cake contest,
the toy boat regatta, the poetry contest, the archery match, the harvest dance,
the spinning-top championship, the race on stilts, the riddle contest, the long jump,
the great treasure hunt, the fancy-dress parade, the dominoes tournament, the climb to the belfry,
the storytelling contest, the relay race, the scarecrow contest
"""

# sign is told at the beginning; good and bad fulfil it at the end.
OMENS: tuple[tuple[str, str, str], ...] = (
    ("[Far away|Very far off|Over the mountains], a [grey|dark|brown|black] cloud shaped like {goods.a} was growing [slowly|in silence|like a suspicion].",
     "Then that cloud [burst|broke] at last, and they sheltered under the same [umbrella|roof|awning].",
     "To make matters worse, that cloud [burst|broke], and each of them got wet alone."),
    ("The night before, {A} had dreamed of {toy.a} and {goods.a} [that talked|that flew"
     "|at the bottom of the sea|on a cloud|under the snow|that danced].",
     "{^A} remembered the dream [then|all at once] and [understood it at last|knew what it had meant].",
     "{^A} remembered the dream, but [understood it too late|it was no use now]."),
    ("A jackdaw with {garment.a} in its beak flew over [twice|three times|four times], as if to [warn them of something|tell them a secret].",
     "The jackdaw flew over again, and this time it [seemed to laugh|sang|turned a somersault].",
     "The jackdaw flew over again, [without a sound|and its cry was sad]."),
    ("On [a wall|a door|a bench] someone had written: \"{^saying}.\" "
     "Nobody paid attention.",
     "[Only then did they understand|On the way home they understood] those written words.",
     "[Too late|When nothing could be done], they understood those written words."),
    ("{^colour.a} feather fell between them, and [nobody picked it up|nobody noticed it].",
     "Before leaving, they picked up that feather [together|from the ground] and kept it.",
     "That feather still lay on the ground, and [the wind|a gust|the rain] carried it off."),
    ("{^A.whose} grandmother always [said|repeated|warned] that {saying}.",
     "How right {A.whose} grandmother [was|had been]!",
     "{^A} remembered [the old saying|those wise words] too late."),
    ("A [distant|faraway|muffled] clap of thunder [rumbled|growled|rolled] [behind the hills|on the horizon], but nobody listened.",
     "The thunder was heard again, but now it [frightened nobody|had lost its teeth].",
     "The thunder was heard again, [this time very close|now right overhead]."),
    ("On the ground, two beetles were pushing [the same little ball|a crumb|a pea|an acorn|the same button] in [opposite directions|contrary directions].",
     "[Even the two beetles|The two beetles, too,] were now pushing the same way.",
     "[The two beetles were still there|On the ground were the two beetles], each pushing its own way."),
    ("In a window, {colour.a} candle [went out|flickered|smoked] though [there was no wind|nobody had blown on it].",
     "And the candle in the window [lit up again|burned again], as if it [were smiling|had waited for that moment].",
     "The candle in the window [stayed dark|never shone again]."),
    ("{^A} had dropped {goods.a} in a puddle on leaving home, and that [brings|announces] surprises.",
     "After all, what {A} dropped on leaving home [had brought good luck|was not missed at all].",
     "What {A} dropped on leaving home was [the least of it|not the only loss of that day]."),
)  # fmt: skip


def add_situations(grammar: Grammar) -> None:
    for name, keys, rows in (
        ("task", ("the", "knack_a", "knack_b", "a", "b", "done"), TASKS),
        ("snag", ("trouble", "plan", "a", "b", "solved"), SNAGS),
        ("omen", ("sign", "good", "bad"), OMENS),
    ):
        grammar.scenes(name, {f"{name} {n + 1}": dict(zip(keys, row, strict=True)) for n, row in enumerate(rows)})
