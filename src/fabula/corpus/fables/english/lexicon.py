"""The English words, in lists separated by commas; "3*fox" has three times the weight of "fox".

How they are written is told in agreement.py.
"""

from __future__ import annotations

ANIMALS = """
3*m fox, 3*m bear, 3*m rabbit, 2*m wolf, 2*m hedgehog, 3*m mouse, 2*m cat, 2*m dog, 2*m donkey, 2*m owl,
m crow, 2*m mole, m badger, 2*m beaver, m stag, m raccoon, 2*m toad, 2*m rooster, m parrot, 2*m snail,
2*m cricket, m lizard, 2*m monkey, 2*m elephant, m penguin, m kangaroo, m horse, m lamb, m flamingo, m bat,
2*m sparrow, m chameleon, m porcupine, m grasshopper, m buffalo, m crocodile, m otter, m eagle,
3*f tortoise, 3*f squirrel, 2*f hare, 3*f frog, 2*f hen, 2*f sheep, 2*f goat, 2*f ant, 2*f bee,
f butterfly, f dove, 2*f stork, f heron, 2*f duck, 2*f giraffe, f zebra, 2*f cow, f magpie, f swallow,
f weasel, f marmot, f iguana, f spider, f firefly, f cicada, f dragonfly, f goose, f robin
"""

TRAITS = """
2*curious, 2*shy, 2*cheerful, 2*proud, brave, 2*absent-minded, calm, chatty, 2*stubborn, vain, merry,
dreamy, prudent, nervous, greedy, cunning, careful, talkative, quiet, clever, mischievous, serene,
forgetful, grumpy, elegant, young, elderly, sturdy, tiny, swift, playful, polite, early-rising, roguish,
solitary, daring, hopeful, wistful, hasty, chilly, noisy, musical, studious, inventive, adventurous,
thoughtful, lazy, dogged, jovial, slow, tidy, reserved, wise, lively, superstitious, refined, easygoing,
practical, stern, well-bred, freckled, short-sighted, plump, slender, pale, wrinkled, sleepy, silent,
funny, witty, romantic, lovesick, famous, mysterious, punctual, untidy, hungry, bouncy, graceful, jolly,
strict, wandering, bashful, strong, nimble, sweet, eloquent, fanciful, nostalgic, gentle, moody, eager,
honest, humble, odd, ambitious, awkward, restless, bold, sensible, fussy, dapper, drowsy, fearless, giggly,
husky, impish, ragged, scruffy, sharp-eyed, soft-spoken, spirited, sulky, tireless, wry, boastful, loud,
earnest, excitable
"""

MALE = """
Tom, Oscar, Leo, Hugo, Felix, Simon, Luke, Jasper, Rufus, Barnaby, Otto, Milo, Toby, Walter, Gilbert,
Edgar, Arthur, Basil, Casper, Duncan, Ernest, Fergus, Gus, Henry, Ivan, Jack, Kip, Linus, Marcus, Ned,
Oliver, Percy, Quentin, Rory, Stanley, Theo, Victor, Wilbur, Angus, Bruno
"""

FEMALE = """
Lola, Martha, Clara, Nina, Rose, Lucy, Carmela, Julia, Bertha, Helen, Sophie, Violet, Alma, Dora, Flora,
Greta, Jemima, Nora, Petra, Ramona, Sarah, Tina, Valerie, Zoe, Amber, Blanche, Celia, Diana, Emily, Fiona,
Gloria, Hazel, Iris, Kate, Mabel, Olive, Polly, Rita, Susan, Tess
"""

# After "in" or "at" as given, since English places choose their preposition.
PLACES = """
2*in the fir forest, 2*in the valley of almond trees, in the oak clearing, 2*at the old mill,
in the hillside orchard, in the fishing harbour, 2*by the reedy lake, 2*in the village of weathercocks,
2*in the poppy meadow, on the mountain of echoes, in the orange garden, on the road to the chapel,
in the weavers' quarter, in the park with the pond, in the grey canyon, in the palm oasis,
in the beech wood, in the olive grove, in the count's vineyard, on the windy moor, on the cliff,
in the bamboo thicket, on the river bank, 2*in the market square, 2*on the hill of pines,
on the beach of shells, 2*on the farm by the brook, on the island of gulls, 2*in the village of red roofs,
in the ferny cave, by the blue lagoon, on the prairie, on the snowy mountain, at the abandoned station,
in the rainforest, on the slope of cherry trees, on the willow shore, at the keeper's cottage,
in the old quarry, in the walled city, in the bay of lighthouses, on the high plateau,
in the poplar avenue, by the fountain of seven spouts, in the quiet cove, in the convent garden,
in the spice market, in the potters' quarter, by the frozen lake, in the chestnut wood,
in the courtyard of the inn, on the boat pier, at the old lighthouse, by the spring, in the wheat field,
among the tall reeds, at the shepherd's hut, in the marsh, on the great plain, in the dry riverbed,
in the copse, at the king's waterwheel, at the valley school, in the clock tower, in the hollow,
in the street of ovens, on the old family farm, beside the canal, in the rose garden,
on the sunny terrace
"""

TREES = """
oak, pine, chestnut, apple tree, cherry tree, olive tree, walnut, willow, fir, poplar, lemon tree,
orange tree, cypress, laurel, ash, elm, linden, almond tree, pear tree, fig tree, palm, acacia, beech,
hazel, maple, birch, cedar, plum tree, mulberry tree, larch, spruce, rowan, alder, hawthorn, juniper,
peach tree, holly, yew, sycamore, hornbeam
"""

# Things to eat that can be divided.
TREATS = """
basket of apples, jar of honey, sack of walnuts, loaf of rye bread, wheel of cheese, blackberry tart,
bunch of grapes, pumpkin, watermelon, melon, sack of wheat, bag of hazelnuts, basket of cherries,
pot of lentils, bowl of strawberries, mushroom pie, loaf, carrot cake, tray of biscuits, box of figs,
crate of pears, pot of soup, lemon cake, string of chestnuts, dish of rice, ear of corn, pineapple,
bucket of plums, oatcake, plate of fritters, potato omelette, pot of jam, bag of pistachios,
bowl of chickpeas, ring of aniseed bread, crate of oranges, gingerbread house, block of fudge,
apricot pudding
"""

# Playthings that only one can use at a time.
TOYS = """
2*swing, 2*kite, 2*drum, scooter, 2*flute, spinning top, 2*boat, 2*ball, 2*sledge, spyglass,
magnifying glass, bicycle, hammock, guitar, telescope, slide, violin, trumpet, tambourine, kaleidoscope,
seesaw, canoe, yo-yo, hoop, harmonica, skateboard, rocking chair, balloon, harp, puppet, accordion,
tricycle, carousel, spinning wheel, xylophone, fishing rod, toy train, music box, rattle, cart, whistle,
rocking horse, racket, lantern, concertina, ukulele, trampoline, raft
"""

# Useful things, to be needed, lent and traded.
GOODS = """
2*basket, 2*jug, 2*axe, 2*blanket, hoe, broom, chair, 2*lamp, 2*hammer, saw, 2*rope, umbrella, scarf,
teapot, coat, saucepan, ladder, rake, shovel, needle, mirror, comb, paintbrush, candle, 2*bucket,
watering can, rug, hat, frying pan, funnel, scale, tablecloth, trunk, bell, padlock, wheelbarrow, pitcher,
apron, backpack, clock, compass, net, cushion, curtain, thimble, mortar, walking stick, map, anvil, sieve,
stool, barrel, pillow, rolling pin, oil lamp, brush, basin, plough, calendar, coat hanger, inkwell, kettle,
ladle, mop, chest, wheel
"""

PRIZES = """
medal of leaves, wooden cup, banner, crown of flowers, silver belt, cape, clay trophy, brass star,
feathered hat, ribbon, amber necklace, key to the village, bell, pearl badge, copper mug, white feather,
cork shield, crystal boot, brooch, ear of gold wheat, paper lantern, giant conch, jade ring,
portrait in oils, pewter chalice, embroidered flag, storybook, carved chair, sundial, cedar box,
pink shell, bronze handbell, velvet cushion, glass slipper, ivory whistle
"""

COLOURS = """
2*red, 2*blue, 2*green, yellow, white, black, purple, grey, orange, pink, violet, turquoise, maroon, brown,
sky-blue, golden, silver, crimson, whitish, ochre, reddish, bluish, greenish, scarlet, fuchsia, lilac,
cream, beige, emerald, copper-coloured, dun, rosy, amber, striped, spotted, chequered, two-coloured,
rainbow-coloured, navy, lemon-yellow
"""

STATES = """
2*old, 2*new, shiny, tiny, gleaming, worn, precious, ancient, light, sturdy, simple, elegant, mended,
dusty, magnificent, strange, exquisite, valuable, smooth, mysterious, spotless, modest, delicate, pretty,
rare, solid, varnished, polished, dented, creaky, scented, dirty, clean, battered, well-made, hand-made,
foreign, freshly painted, second-hand, unused, splendid, peculiar, charming, ordinary, enormous, graceful,
weathered, lopsided
"""

SIZES = """
3*huge, 2*beautiful, 2*small, magnificent, humble, splendid, tasty-looking, modest, generous, delicious,
fragrant, tempting, simple, extraordinary, sweet-smelling, fine
"""

TREE_LOOKS = """
2*old, ancient, crooked, leafy, flowering, lonely, enormous, gnarled, young, hollow, leaning, silent,
thick, towering, stunted, knotty, majestic, stout, slender, thirsty, generous, sleeping, shady, bare,
snowy, green, golden, straight, broad, ivy-covered, leafless, charred, silvery, friendly, split, venerable,
bushy, mossy, wind-bent, whispering
"""

GLAD = """
2*happy, content, relieved, satisfied, thrilled, radiant, grateful, proud, delighted, overjoyed, moved,
blissful, amazed, enchanted, jubilant, wonderstruck, comforted, pleased, elated, dazzled, joyful, touched,
rejuvenated, hopeful, triumphant, refreshed, ecstatic, light-hearted, exhilarated, merry, reassured
"""

SAD = """
2*sad, ashamed, discouraged, 2*sorry, crestfallen, downcast, heavy-hearted, dejected, silent, thoughtful,
heartbroken, gloomy, mournful, disappointed, contrite, wilted, disheartened, wistful, resigned, glum,
sombre, hurt, disillusioned, confused, troubled, tearful, sorrowful, regretful
"""

ANGRY = """
2*angry, furious, red-faced, annoyed, offended, bad-tempered, stern, indignant, irate, scowling, irritated,
raging, upset, stung, hurt, incensed, defiant, flustered, heated, exasperated, tense, breathless, cross,
sullen, bristling, fuming
"""

# How one works.
MANNERS = """
without losing a moment, patiently, step by step, good-humouredly, little by little, calmly,
with all possible strength, with great attention, without complaint, at a good pace, with care, humming,
between laughs, unhurriedly, skilfully, willingly, ingeniously, whistling a tune, lovingly, without rest,
thoroughly, doggedly, with enthusiasm, deftly, with a light heart, with great art, without flagging,
with deep concentration, as if it were a game, with vigour, very seriously, with devotion, nimbly,
without a murmur, gracefully, without shortcuts, humbly, with discipline, with a cool head,
in perfect time, with a firm hand, in the blazing sun, with much sweat, methodically, wholeheartedly,
in good order, with perseverance, as in a dance, quickly, delicately, fearlessly, confidently, bit by bit,
without hesitation, optimistically, like a true ant, cheerfully, serenely, slowly, diligently,
with great faith, elegantly, from dawn to dusk
"""

# How one measures, looks or listens.
CARES = """
very carefully, calmly, with precision, without hurry, in full view, patiently, noiselessly,
in all seriousness, like a sage, without blinking, through thick glasses, very slowly, with great ceremony,
with a tilted head, missing nothing, with interest, saying nothing, wide-eyed, point by point, delicately,
with an expert eye, again and again, fairly, with the utmost attention, with bated breath, tight-lipped,
like a counter of pearls, with infinite patience, respectfully, with one eye closed, gravely,
with a magnifying glass, in the sunlight, with rigour
"""

# How one walks.
PACES = """
at a light step, whistling, without losing a moment, skipping, in great haste, without looking back,
by the shortcut, in good spirits, like the wind, with great strides, across the fields,
with the wind behind, without stumbling, singing aloud, calmly, uphill, under the sun, without a pause,
head held high, at an easy pace, with new strength, like an arrow, on tiptoe, along the bank,
facing the wind, in a straight line, humming, out of breath, with a will, by the usual path,
bouncing along
"""

# After "said the fox".
TAGS = """
softly, with a smile, very slowly, through clenched teeth, with a wink, with a sigh, solemnly,
without hesitation, shyly, firmly, in a sweet voice, at last, with shining eyes, in a small voice,
with poise, in a friendly tone, with a kind gesture, almost in a whisper, very calmly, sincerely,
rather hurriedly, thoughtfully, suddenly, frankly, in earnest, half in jest, sweetly, with a gulp,
hoarsely, plainly, tenderly, with energy, in a trembling voice, with a bow, prudently, happily,
with a shrug, gravely, with half a smile, brightly, nobly, after some thought, in a broken voice, slyly,
from the heart, quietly, timidly, dryly, with admiration, cautiously, courteously, humbly, eagerly,
with lowered eyes, after a pause, in a clear voice, respectfully, with much tact, good-humouredly, lightly,
with enthusiasm
"""

# Said to agree, before a comma.
ACCEPTS = """
2*Agreed, Sounds good to me, It is a deal, Let us do that, Good idea, Fine by me, Let us try, I accept,
With pleasure, Count me in, You have convinced me, Of course, Go ahead, Well said, I like the idea,
No sooner said than done, You are right, Say no more, Word of honour, All right, So be it, I cannot refuse,
What a grand idea, With my eyes closed, That seems fair, I have nothing against it, Certainly, No problem,
Let us start now, I am with you, High time, Perfect, Very well, As you wish, Gladly, Done
"""

# Said in anger, before an exclamation mark.
SHOUTS = """
That is not fair, You always want to be in charge, Do not count on me, You never listen,
I will not give in, You understand nothing, We shall get nowhere like this, What a cheek,
This is the last straw, Stop giving me orders, I know better than you, Always the same story,
Not in your dreams, By no means, What a way to do things, You have no idea, Ask first and talk later,
You are impossible, I was here first, Leave me alone, No way, Do not shout at me, How dare you,
I have had enough, What nonsense, My patience is over, You are not the centre of the world, Think a little,
I refuse, This makes no sense, Do not make me laugh, Stop bossing me about, You will never change,
Be quiet for once, That is a lie, I will do it my way, Not one step further, Get out of the way,
You always have excuses, Nobody asked you, How rude, Look who is talking, I am right,
You do not believe that yourself, I cannot stand you
"""

# When something comes next; capital letters are added where needed.
LATERS = """
towards evening, before supper, under the first stars, at noon, in the middle of the afternoon,
an hour later, at nap time, a while later, when the bell rang, at sunset, before nightfall,
when it grew cool, at the end of the day's work, when the moon rose, at the last minute, the next day,
two days later, the next morning, as the day ended, when the clock struck six, under the full moon,
in the last light, on the stroke of eight, after a rest, three days later, when the crickets fell silent,
before the rain, when the dew fell, under a blazing sky, when the flocks came home, at tea time,
as the market closed, when the lamps were lit, a week later, when the wind dropped, after lunch,
in the small hours, at cockcrow, under a pink sky, at the hour of long shadows, after the rain,
on the fifth day, in less than an hour, within a month, when calm returned, at low tide, by candlelight,
after the nap, at the edge of night, when the mist rose, on Tuesday afternoon, when nobody was looking,
at dusk, as the shops opened
"""

FEASTS = """
the village fair, a surprise for the neighbours, the first day of spring, the miller's wedding,
a few extra coins, the sick of the village, midsummer night, the queen's birthday, the coming of winter,
passing travellers, the great market, the good of all, the grandparents, carnival, a change from boredom,
the return of the storks, the winter market, a bet, the longest night, the end of school,
the harvest feast, the county contest, Tree Day, a change of air
"""

ERRANDS = """
the winter, a journey, moving house, the spring cleaning, the village feast, an important visit,
the henhouse, the garden, an outing, a sick aunt, market day, an urgent job, the picnic, a new house,
the dance, an urgent repair, the big wash, a certain secret matter, rainy days, the harvest, a gala dinner,
the old well, a nephew's birthday, hard winters, the parlour, a honeymoon, the milk round,
the grape picking, a treasure, the sewing club, a night outdoors, an experiment, the school play,
the pilgrimage, the olive picking, a gloomy kitchen, a mountain walk, a gift
"""

# What somebody wants a thing for: infinitives.
PURPOSES = """
amuse some nephews, pass the long evenings, cheer up a grandmother, impress the cousins,
brighten the village feast, remember a happy childhood, put on a play, teach the little ones,
take on a long journey, rest after work, forget a sorrow, keep a promise, celebrate a birthday,
get through rainy afternoons, copy the design, practise alone, give it at a wedding, win a bet,
spring a surprise, liven up a party, win new friends, learn something new, take it to school,
make a dream come true, decorate a bedroom, play in a parade, make a brother laugh, write about it,
feel important, sleep better, trade it, move the moon
"""

# Worn, after "a" and a colour.
GARMENTS = """
2*scarf, 2*hat, waistcoat, cap, handkerchief, cape, apron, beret, bow, belt, jacket, jersey, shirt, bonnet,
shawl, collar, tie, headband, poncho, bow tie, coat, ribbon, smock, bracelet, turban, monocle, hood,
necklace, sash, backpack, flower, feather, cardigan, dressing gown, mask
"""

FOODS = """
honey bread, pumpkin soup, roast chestnuts, fresh cheese, oat pancakes, berry salad, apple sauce,
cinnamon buns, rice pudding, tender carrots, figs, wild blackberries, pasties, toasted almonds, leek soup,
doughnuts, grilled mushrooms, porridge, roast peppers, custard, quince jelly, onion soup, baked potatoes,
woodland truffles, apple pie, sweetcorn, ripe plums, wafers, marzipan, chard stew, sweet peas,
fresh grapes, French toast, tomato soup, roast chickpeas, sweet potatoes, walnut bread, ginger biscuits,
raspberry jam, cheesecake, dates, fried artichokes, cold watermelon, pickled cucumbers, caramel flan,
almond sponge, lentil stew, tomatoes on toast, peaches in syrup, polenta, broad beans, mushroom pasties,
vegetable broth, fig jam, raisin bread, chestnut cream, croquettes, pea soup, beans in tomato sauce,
smoked cheese, honey yoghurt, toasted hazelnuts, tea cakes, cream cheese, spinach omelette, sweet beetroot,
minty melon, garlic soup, cornbread, blueberries, baked apples, stuffed turnips, crumpets, nougat,
shortbread, cauliflower cheese, orange salad, courgette fritters, raspberry cream, pears in wine,
peppermints, ratatouille, couscous, lemon ice, muffins, noodle soup, radishes, scones, treacle tart,
barley soup
"""

SMELLS = """
thyme, toast, dry firewood, mint, wet earth, jasmine, rosemary, cinnamon, resin, ripe fruit, lavender,
orange blossom, camomile, hay, sage, fresh coffee, peppermint, salt, wax, chocolate, pine, roses, aniseed,
sweet smoke, lemon, fresh clay, vanilla, blackberries, seaweed, moss, almonds, cloves, cut wheat,
old paper, plums, flour, sawdust, burnt sugar, violets, laurel, warm honey
"""

SOUNDS = """
the song of a blackbird, a distant bell, the murmur of water, the buzzing of a fly,
the laughter of children, the creak of a branch, the hammer of a blacksmith, a shepherd's whistle,
the rattle of a wagon, the squeak of a door, an old song, the tapping of a woodpecker,
the bleating of a flock, the whisper of the wind, the drip of a fountain, the flutter of wings,
the clink of a cowbell, the voice of a town crier, the tune of a barrel organ, the echo of a horn,
the rustle of dry leaves, the bark of a mastiff, the gallop of a colt, the ring of a bicycle bell,
the hoot of a train, a goatherd's flute, the trill of a goldfinch, a ship's siren, the roll of a drum,
the splash of oars, the lowing of an ox, the chatter of gossips, the strum of a lute, a ploughman's song
"""

LIGHTS = """
golden, soft, clear, clean, white, warm, silvery, rosy, cheerful, trembling, milky, old and yellow,
delicate, pale, reddish, honey-coloured, greenish, lazy, perfect, pearly, amber, bluish
"""

# Sayings, for walls and grandmothers.
SAYINGS = """
who goes alone comes late, two threads make a knot, haste trips over its own feet,
nobody rows with a single oar, two can undo any knot, one hand washes the other, hurry breaks the jug,
who sows the wind reaps the storm, who asks most learns most, the patient drop opens the stone,
one bee makes no honey, pride dines alone, a loose rope ties nothing, where two can eat so can three,
who shouts much hears little, a bridge needs two banks, shared water tastes better,
straw and mud make a nest, no cart runs on one wheel, who lends can rest, a small key opens a big door,
to every door its neighbour, the short road deceives, who hugs does not squeeze, salt alone feeds nobody,
a boat for two will not sink
"""

# Morals that suit every set-up: clauses for "that ...".
MAXIMS = """
nobody is as strong as two who understand each other, friendship needs watering every day,
good things grow when they are shared, a kind word opens many doors, long roads are walked in company,
helping can be learned, selfishness has short legs, trust is earned drop by drop,
a friend is better than a treasure, thinking of others never costs too much,
whoever listens learns and whoever learns gets better, good deals make good neighbours,
patience bears sweet fruit, nobody is above anybody else, a small gesture can change a whole day,
pride weighs more than a stone, shared joy is double, each of us reaps what we sow,
saying sorry makes nobody smaller, truth walks slowly but arrives, among many the load is a feather,
life takes many turns, whoever looks after others is looked after, what is done with love will last
"""

NEIGHBOURS = """
m postman, baker, shepherd, miller, blacksmith, teacher, lamplighter, f seamstress, m ferryman, gardener,
woodcutter, mayor, clockmaker, weaver, m fisherman, innkeeper, potter, f shepherdess, musician, healer,
carpenter, f milkmaid, cobbler, librarian, puppeteer, spinner, bell-ringer, apothecary, captain, cook,
tailor, florist, goatherd, shopkeeper, locksmith, m watchman, painter, m fireman, f midwife, glazier, ceramist,
sailor, dressmaker, mechanic, engineer, astronomer, park keeper, lion tamer, minstrel, poet, fishmonger,
greengrocer, miner, knife-grinder, f washerwoman, troubadour, violinist, chimney sweep, beekeeper, m marquis,
f countess, cheesemaker, botanist, architect, singer, m barber, toymaker, m hatter, water carrier, m ragman, guide,
f headmistress, cooper, grape picker, ice-cream seller, sculptor, pedlar, coal merchant, telegraphist,
bookbinder, conductor, thatcher
"""

ABODES = """
hayloft, pantry, attic, stable, wine cellar, barn, shed, kitchen, cupboard, basement, woodshed, henhouse,
garret, hallway, workshop, back room, storehouse, yard, coal cellar, porch, gallery, wine press, arbour,
old tower, dovecote, boathouse
"""
