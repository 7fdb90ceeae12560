"""Spanish situations: tasks that need two, things that go wrong, contests, and omens with their fulfilment.

Each situation keeps its goal, what each of the two does and how it turns out, so that cause and effect agree.
"""

from __future__ import annotations

from ..notation import Grammar

# goal and knacks are infinitives; a and b complete "A ..." and "B ..." in the past; done is a sentence.
TASKS: tuple[tuple[str, str, str, str, str, str], ...] = (
    ("construir una balsa", "hacer nudos", "elegir la madera", "ató los troncos con nudos marineros",
     "escogió los troncos más secos", "La balsa flotó como un corcho"),
    ("preparar un banquete", "encender el fuego", "sazonar los guisos", "encendió una lumbre de leña fina",
     "echó las especias justas en la olla", "El banquete salió exquisito"),
    ("montar un teatro de títeres", "coser", "imitar voces", "cosió los trajes de los títeres",
     "prestó su voz al rey y a la bruja", "La función terminó entre aplausos"),
    ("arreglar el tejado de la escuela", "clavar clavos", "cortar tablas", "clavó las tejas una por una",
     "cortó las tablas a la medida", "El tejado quedó firme y sin goteras"),
    ("hacer una cometa gigante", "doblar el papel", "leer el viento", "dobló el papel como si fuera un pañuelo",
     "buscó la corriente de aire más favorable", "La cometa gigante subió hasta las nubes"),
    ("componer una canción", "inventar versos", "encontrar melodías", "inventó versos sobre la luna",
     "halló una melodía pegadiza", "La canción se oyó en todas las ventanas"),
    ("llegar al mirador más alto", "leer mapas", "seguir huellas", "desplegó el mapa en cada cruce",
     "siguió las huellas de los rebaños", "El mirador apareció de pronto, con todo el mundo debajo"),
    ("pintar un mural", "dibujar", "mezclar los colores", "dibujó las figuras con carbón",
     "mezcló unos colores nunca vistos", "El mural llenó de alegría la pared"),
    ("reparar el reloj de la torre", "limpiar engranajes", "afinar campanas", "limpió los engranajes con un pincel",
     "afinó la campana mayor", "El reloj volvió a dar la hora en punto"),
    ("cultivar un huerto", "arar la tierra", "cuidar las semillas", "aró la tierra en surcos rectos",
     "plantó y regó las semillas", "El huerto se llenó de tomates y de pepinos"),
    ("fabricar un farol", "doblar el alambre", "derretir la cera", "dobló el alambre en forma de flor",
     "derritió la cera para la vela", "El farol alumbró la noche entera"),
    ("tejer un tapiz", "hilar la lana", "teñir la lana", "hiló la lana en una rueca", "tiñó las madejas con cebolla y remolacha",
     "El tapiz abrigó la sala más fría"),
    ("imprimir un periódico", "redactar noticias", "manejar la imprenta", "redactó las noticias con buena letra",
     "entintó las planchas de la imprenta", "El periódico pasó de puerta en puerta"),
    ("hornear el pan de la feria", "amasar", "vigilar el horno", "amasó la harina hasta que quedó esponjosa",
     "vigiló el horno sin parpadear", "El pan salió dorado y crujiente"),
    ("levantar un puente de piedra", "tallar la piedra", "calcular los arcos", "talló las piedras con un cincel",
     "calculó la curva de los arcos", "El puente aguantó el paso de siete carretas"),
    ("domar un viejo molino de agua", "engrasar las ruedas", "desviar la corriente", "engrasó las ruedas dormidas",
     "desvió la corriente con una compuerta", "El molino despertó con un largo bostezo de madera"),
    ("abrir una biblioteca", "encuadernar libros", "leer en voz alta", "encuadernó los libros rotos",
     "leyó en voz alta la primera página", "La biblioteca se llenó de lectores"),
    ("organizar un circo", "hacer malabares", "tocar los platillos", "hizo malabares con siete ciruelas",
     "tocó los platillos en el momento exacto", "El público del circo rio hasta llorar"),
)  # fmt: skip

# trouble: "... " in the past; plan: infinitive for the two; a, b: what each does; solved: sentence.
SNAGS: tuple[tuple[str, str, str, str, str], ...] = (
    ("un tronco [enorme|caído] cortaba el camino", "hacer palanca con un palo", "metió el palo debajo del tronco",
     "colocó una piedra como apoyo", "El tronco rodó cuesta abajo y el camino quedó libre"),
    ("la puerta del granero se había atascado", "untar las bisagras y empujar a la vez",
     "untó las bisagras con manteca", "apoyó el lomo contra la madera", "La puerta se abrió con un gemido"),
    ("el carro de la harina se había hundido en el barro", "poner ramas bajo las ruedas",
     "colocó ramas secas bajo las ruedas", "tiró de las riendas", "El carro salió del barro con un chasquido"),
    ("la crecida se había llevado tres tablas del puente", "poner tablas nuevas", "midió los huecos con un cordel",
     "clavó las tablas nuevas", "El puente volvió a unir las dos orillas"),
    ("la noria se había parado", "limpiar el canal y girar la rueda", "sacó las hojas del canal",
     "hizo girar la rueda", "La noria echó a andar y el agua corrió de nuevo"),
    ("un rebaño se había perdido en la niebla", "tocar un cencerro y llevar un farol", "hizo sonar el cencerro",
     "levantó el farol", "Las ovejas perdidas siguieron el sonido y la luz hasta el redil"),
    ("las goteras mojaban la escuela", "subir por turnos al tejado", "sujetó la escalera",
     "tapó los agujeros con barro y paja", "Dentro de la escuela dejó de llover"),
    ("la llave del granero había caído en una grieta", "atar un imán a un hilo", "ató un imán a un hilo largo",
     "alumbró la grieta con una vela", "La llave subió pegada al imán"),
    ("la barca grande hacía agua", "vaciarla y tapar la vía", "achicó el agua con un balde",
     "tapó la vía con resina", "La barca volvió a flotar, seca y orgullosa"),
    ("una roca tapaba el manantial", "cavar alrededor", "cavó por la derecha", "cavó por la izquierda",
     "La roca cedió y el manantial brotó con fuerza"),
    ("el viento había enredado todas las redes del puerto", "deshacer los nudos desde los dos extremos",
     "desenredó un cabo", "desenredó el otro", "Las redes quedaron extendidas al sol"),
    ("un enjambre había anidado en la chimenea", "hacer un poco de humo y preparar una colmena",
     "encendió un puñado de hierba húmeda", "acercó una colmena vacía", "El enjambre se mudó sin picar a nadie"),
    ("nadie lograba abrir el cofre del ayuntamiento", "girar dos llaves al mismo tiempo", "giró la llave de hierro",
     "giró la llave de bronce", "El cofre se abrió y aparecieron los libros perdidos"),
    ("el granizo había tumbado los rosales", "enderezarlos con cañas", "sostuvo los tallos", "ató las cañas",
     "Los rosales volvieron a mirar al cielo"),
)  # fmt: skip

CONTESTS = """
la carrera de sacos, el concurso de canto, la carrera hasta el molino, el torneo de ajedrez,
el concurso de pasteles, la regata de barquitos, el certamen de poesía, la prueba de puntería,
el baile de la cosecha, el campeonato de peonzas, la carrera de zancos, el concurso de adivinanzas,
el salto de longitud, la gran yincana, el desfile de disfraces, el torneo de dominó,
la subida al campanario, el concurso de acertijos, la carrera de relevos, el concurso de espantapájaros
"""

# sign is told at the beginning; good and bad fulfil it at the end.
OMENS: tuple[tuple[str, str, str], ...] = (
    ("[Lejos|Muy lejos|Sobre los montes], una nube [gris|parda|oscura|negra] con forma de {goods.n} crecía [sin prisa|en silencio|como una sospecha].",
     "Entonces aquella nube [descargó|rompió a llover], y {P} se [refugiaron|cobijaron] bajo un mismo [paraguas|tejado|toldo].",
     "Para colmo, aquella nube [descargó|rompió a llover], y {P} se mojaron, cada cual por su lado."),
    ("La noche anterior, {A} había soñado con {toy.un} y {goods.un} "
     "[que hablaban|que volaban|en el fondo del mar|sobre una nube|bajo la nieve|que bailaban].",
     "{^A} recordó [entonces|de pronto] su sueño y por fin [lo entendió|supo lo que quería decir].",
     "{^A} recordó su sueño, pero [lo entendió demasiado tarde|ya no servía de nada]."),
    ("Una corneja pasó [dos|tres|cuatro] veces por encima con {garment.un} en el pico, como si quisiera [avisar de algo|contar un secreto].",
     "La corneja volvió a pasar, y esta vez [parecía reír|cantaba|hizo una pirueta].",
     "La corneja volvió a pasar, [esta vez muy callada|y su graznido sonó triste]."),
    ("En [un muro|una puerta|un banco] alguien había escrito: «{^saying}». "
     "Nadie hizo caso.",
     "[Solo entonces|Al volver a casa] comprendieron aquellas palabras escritas.",
     "[Demasiado tarde|Ya sin remedio], comprendieron aquellas palabras escritas."),
    ("Una pluma {colour.f} cayó entre {P}, y [nadie la recogió|nadie se fijó en ella].",
     "Antes de irse recogieron [del suelo|entre l{P.os} dos] aquella pluma y la guardaron como recuerdo.",
     "Aquella pluma seguía en el suelo, y [el viento|una ráfaga|la lluvia] se la llevó."),
    ("La abuela {A.del} siempre [decía|repetía|recordaba] que {saying}.",
     "¡Cuánta razón [tenía|había tenido] la abuela {A.del}!",
     "{^A} se acordó tarde [de su abuela|de las palabras de su abuela]."),
    ("Un trueno [lejano|remoto|apagado] [retumbó|gruñó|rodó] [tras los montes|en el horizonte], pero nadie le prestó atención.",
     "Volvió a oírse el trueno, pero ya no [asustaba a nadie|daba miedo].",
     "Volvió a oírse el trueno, [esta vez muy cerca|ahora sobre sus cabezas]."),
    ("En el suelo, dos escarabajos empujaban [la misma bolita|una miga|un guisante|una bellota|el mismo botón] en [direcciones opuestas|sentidos contrarios].",
     "[También los dos escarabajos|Hasta los dos escarabajos] empujaban ya hacia el mismo lado.",
     "[Allí seguían los dos escarabajos|En el suelo seguían los dos escarabajos], cada uno empujando hacia su lado."),
    ("En una ventana, una vela {colour.f} [se apagó|parpadeó|echó humo] sin que soplara [el viento|nadie].",
     "Y la vela de la ventana [volvió a encenderse|ardió de nuevo], como si [sonriera|hubiera esperado aquel momento].",
     "La vela de la ventana [siguió apagada|no volvió a lucir]."),
    ("{^A.al} se le había caído {goods.un} en un charco al salir de casa, y eso [trae|anuncia] sorpresas.",
     "Al fin y al cabo, lo que {A} perdió en aquel charco [le trajo suerte|no hacía ninguna falta].",
     "Lo que {A} perdió en aquel charco [fue lo de menos|no fue lo único que perdió aquel día]."),
)  # fmt: skip


def add_situations(grammar: Grammar) -> None:
    for name, keys, rows in (
        ("task", ("el", "knack_a", "knack_b", "a", "b", "done"), TASKS),
        ("snag", ("trouble", "plan", "a", "b", "solved"), SNAGS),
        ("omen", ("sign", "good", "bad"), OMENS),
    ):
        grammar.scenes(name, {f"{name} {n + 1}": dict(zip(keys, row, strict=True)) for n, row in enumerate(rows)})
