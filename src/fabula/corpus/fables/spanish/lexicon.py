"""The Spanish words, in lists separated by commas; "3*fox" has three times the weight of "fox".

How they are written is told in agreement.py.
"""

from __future__ import annotations

ANIMALS = """
3*el zorro, 3*el oso, 3*el conejo, 2*el lobo, 2*el erizo, 3*el ratón, 2*el gato, 2*el perro, 2*el burro,
2*el búho, el cuervo, 2*el topo, el tejón, 2*el castor, el ciervo, el mapache, 2*el sapo, 2*el gallo,
2*el pato, el loro, 2*el caracol, 2*el grillo, el lagarto, 2*el mono, 2*el elefante, el pingüino,
el canguro, el caballo, el cordero, el flamenco, el murciélago, 2*el gorrión, el ganso, el camaleón,
el puercoespín, el saltamontes, el búfalo, 3*la tortuga, 3*la ardilla, 2*la liebre, 3*la rana,
2*la gallina, 2*la oveja, 2*la cabra, 2*la hormiga, 2*la abeja, la mariposa, la paloma, 2*la cigüeña,
la garza, 2*la nutria, 2*la jirafa, la cebra, 2*la vaca, la lechuza, la urraca, la golondrina,
la comadreja, la marmota, la iguana, la araña, la luciérnaga, 2*el* águila, la cigarra, la libélula
"""

TRAITS = """
2*curioso, 2*tímido, 2*alegre, 2*orgulloso, valiente, 2*distraído, tranquilo, charlatán/charlatana,
2*testarudo, presumido, risueño, soñador, prudente, nervioso, glotón, astuto, cuidadoso, hablador, callado,
mañoso, travieso, sereno, despistado, gruñón, elegante, joven, anciano, forzudo, menudo, veloz, juguetón,
cortés/cortés, madrugador, pícaro, solitario, atrevido, optimista, melancólico, presuroso, tozudo,
friolero, parlanchín/parlanchina, cantarín/cantarina, coqueto, viajero, novato, bromista, asustadizo,
meticuloso, sensato, despierto, formal, goloso, musical, estudioso, inventor, aventurero, pensativo,
perezoso, tenaz, afable, jovial, lento, pulcro, reservado, sabio, terco, vivaracho, ruidoso, supersticioso,
olvidadizo, refinado, campechano, práctico, simpático, severo, educado, rubio, moreno, canoso, delgado,
rechoncho, pálido, miope, zurdo, pecoso, bajito, alto, arrugado, barrigudo, somnoliento, silencioso,
gracioso, ocurrente, romántico, enamorado, famoso, misterioso, puntual, desordenado, comilón,
saltarín/saltarina, bailarín/bailarina, guasón, regañón, llorón, andarín/andarina, chiquitín/chiquitina,
fuerte, ágil, dulce, ausente, persistente, elocuente, fantasioso, nostálgico, apacible, flemático, vivaz,
lunático
"""

MALE = """
Bruno, Tomás, Nico, Leo, Hugo, Martín, Simón, Lucas, Mateo, Ramón, Benito, Teo, Gaspar, Rufo, Félix,
Pancho, Julián, Marcos, Darío, Rubén, Damián, Fermín, Pascual, Baltasar, Celso, Elías, Fabián, Gonzalo,
Jacinto, Lázaro, Manolo, Néstor, Paco, Quique, Roque, Samuel, Tadeo, Valentín, Zacarías, Ciro
"""

FEMALE = """
Lola, Marta, Clara, Nina, Rosa, Lucía, Carmela, Julia, Berta, Elena, Sofía, Violeta, Alma, Dora, Flora,
Greta, Jimena, Leonor, Manuela, Noa, Petra, Ramona, Sara, Tina, Valeria, Zoe, Amparo, Blanca, Celia, Diana,
Emilia, Fátima, Gloria, Lidia, Mirta, Nora, Pilar, Rita, Susana, Teresa
"""

PLACES = """
2*el bosque de los abetos, 2*el valle de los almendros, el claro del robledal, 2*el viejo molino,
el huerto del cerro, el puerto de los pescadores, 2*el lago de los juncos, 2*el pueblo de las veletas,
2*el prado de las amapolas, el monte de los ecos, el jardín de los naranjos, el camino de la ermita,
el barrio de los tejedores, el parque del estanque, el desfiladero gris, el oasis de las palmeras,
el hayedo, el olivar, el viñedo del marqués, el páramo, el acantilado, el bosquecillo de bambú,
la orilla del río, 2*la plaza del mercado, 2*la colina de los pinos, la playa de las conchas,
2*la granja del arroyo, la isla de las gaviotas, 2*la aldea de los tejados rojos, la cueva de los helechos,
la laguna azul, la pradera, la montaña nevada, la estación abandonada, la dehesa, la selva,
la ladera de los cerezos, la ribera de los sauces, la vega, la cabaña del guardabosques, la vieja cantera,
la ciudad amurallada, la sierra, la bahía de los faros, la meseta, la alameda,
la fuente de los siete caños, la ensenada, la huerta del convento, el mercado de las especias,
el barrio de los alfareros, el lago helado, el castañar, el patio de la posada, el muelle de los botes,
el viejo faro, el manantial, el trigal, el carrizal, el refugio del pastor, el pantano, la llanura,
la rambla, la arboleda, la caleta, la noria del rey, la escuela del valle, la torre del reloj,
la hondonada, la calle de los hornos, la finca del abuelo
"""

TREES = """
el roble, el pino, el castaño, el manzano, el cerezo, el olivo, el nogal, el sauce, el abeto, el álamo,
el limonero, el naranjo, el ciprés, el laurel, el fresno, el olmo, el tilo, el almendro, el peral,
la higuera, la encina, la palmera, la acacia, el* haya, el avellano, el granado, el eucalipto,
el membrillo, el madroño, el chopo, el enebro, el alcornoque, el algarrobo, el cedro, el arce, el abedul,
el moral, la secuoya, la morera, el mandarino, el albaricoquero, el melocotonero
"""

# Things to eat that can be divided.
TREATS = """
la cesta de manzanas, el tarro de miel, el saco de nueces, el pan de centeno, el queso de oveja,
la tarta de moras, el racimo de uvas, la calabaza, la sandía, el melón, el saco de trigo,
la bolsa de avellanas, la canasta de cerezas, el puchero de lentejas, el cuenco de fresas, la empanada,
la hogaza, el pastel de zanahoria, la bandeja de galletas, la caja de higos, el cesto de peras,
la olla de sopa, el bizcocho de limón, la ristra de castañas, la fuente de arroz, la mazorca de maíz,
la piña, el cubo de ciruelas, la torta de avena, el plato de buñuelos, la tortilla de patatas,
el frasco de mermelada, la bolsa de pistachos, la cazuela de garbanzos, la rosca de anís,
el cajón de naranjas
"""

# Playthings that only one can use at a time.
TOYS = """
2*el columpio, 2*la cometa, 2*el tambor, el patinete, 2*la flauta, la peonza, 2*la barca, 2*la pelota,
2*el trineo, el catalejo, la lupa, la bicicleta, la hamaca, la guitarra, el telescopio, el tobogán,
el violín, la trompeta, la pandereta, el caleidoscopio, el balancín, la canoa, el yoyó, el diábolo,
la armónica, el monopatín, la mecedora, el globo, el* arpa, la marioneta, el acordeón, el triciclo,
el carrusel, la rueca, el xilófono, el tirachinas, la caña de pescar, el tren de madera, la caja de música,
el teatrillo, el sonajero, la carreta, la piragua, el silbato, el caballito de madera, el órgano,
la raqueta, la linterna
"""

# Useful things, to be needed, lent and traded.
GOODS = """
2*el cesto, 2*la jarra, 2*el* hacha, 2*la manta, la azada, la escoba, la silla, 2*la lámpara,
2*el martillo, la sierra, 2*la cuerda, el paraguas, la bufanda, la tetera, el abrigo, el cazo, la escalera,
el rastrillo, la pala, la aguja, el espejo, el peine, la brocha, la vela, 2*el cubo, la regadera,
la alfombra, el sombrero, la sartén, el embudo, la balanza, el mantel, el baúl, la campana, el candado,
la carretilla, el cántaro, el delantal, la mochila, el reloj, la brújula, la red, el almohadón, la cortina,
el dedal, el mortero, la tinaja, el bastón, el mapa, el yunque, la tijera, el colador, el taburete,
el fuelle, el barril, la criba, la cesta, el almirez, la horca, el rodillo, el candil, la garrafa,
la cazuela, el cepillo, la palangana, el arado, la percha, el calendario, la almohada, el perchero
"""

# What is won.
PRIZES = """
la medalla de hojas, la copa de madera, el banderín dorado, la corona de flores, el cinturón de plata,
la capa azul, el trofeo de barro, la estrella de latón, el sombrero de plumas, la cinta morada,
el collar de ámbar, la llave del pueblo, el cascabel de oro, la insignia de nácar, el tazón de cobre,
la pluma blanca, el escudo de corcho, la bota de cristal, el broche de marfil, la espiga dorada,
el farol de papel, la caracola gigante, el anillo de jade, el retrato al óleo, el cáliz de estaño,
la bandera bordada, el libro de cuentos, la silla tallada, el reloj de sol, la brújula de plata,
el cofre de cedro, la concha rosada, el manto bordado, la campanilla de bronce
"""

# After a plaything or a useful thing: a colour, then a state.
COLOURS = """
2*rojo, 2*azul, 2*verde, amarillo, blanco, negro, morado, gris, naranja, rosa, violeta, turquesa, granate,
marrón/marrón, celeste, dorado, plateado, carmesí, anaranjado, blanquecino, ocre, rojizo, azulado, verdoso,
escarlata, fucsia, lila, crema, beis, púrpura, esmeralda, bermejo, cobrizo, pardo, negruzco, amarillento,
grisáceo, rosado, carmelita, jaspeado
"""

STATES = """
2*viejo, 2*nuevo, brillante, diminuto, reluciente, gastado, precioso, antiguo, ligero, robusto, sencillo,
elegante, remendado, polvoriento, magnífico, resistente, extraño, exquisito, valioso, resplandeciente,
liso, misterioso, pulido, modesto, delicado, cubierto de polvo, lleno de pegatinas, hecho a mano,
sin estrenar, de segunda mano, bonito, raro, sólido, barnizado, bruñido, abollado, chirriante, perfumado,
sucio, limpio, estropeado por el tiempo/estropeada por el tiempo, de buena calidad,
traído de lejos/traída de lejos, envuelto en papel/envuelta en papel, recién pintado/recién pintada,
digno de un rey/digna de un rey
"""

TREE_LOOKS = """
2*viejo, centenario, torcido, frondoso, florido, solitario, enorme, retorcido, joven, hueco, inclinado,
silencioso, espeso, altísimo, bajito, nudoso, majestuoso, robusto, esbelto, sediento, milenario, generoso,
dormido, umbrío, desnudo, nevado, verde, dorado, recto, ancho, cubierto de hiedra/cubierta de hiedra,
sin hojas, lleno de nidos/llena de nidos, chamuscado, plateado, amable, partido, venerable, tupido
"""

# Before something to eat.
SIZES = """
3*enorme, 2*hermoso, 2*pequeño, magnífico, humilde, espléndido, apetitoso, modesto, generoso, delicioso,
fragante, suculento, abundante, tentador, majestuoso, sencillo, extraordinario, sabroso
"""

GLAD = """
2*contento, aliviado, satisfecho, emocionado, 2*feliz, radiante, agradecido, orgulloso, animado,
entusiasmado, jubiloso, sonriente, conmovido, eufórico, dichoso, asombrado, encantado, alborozado,
maravillado, reconfortado, complacido, exultante, resplandeciente, deslumbrado, gozoso, enternecido,
rejuvenecido, esperanzado, ufano, triunfante, victorioso, renovado, emocionadísimo, contentísimo,
boquiabierto, sereno, extasiado
"""

SAD = """
2*triste, avergonzado, desanimado, 2*arrepentido, cabizbajo, abatido, apenado, apesadumbrado, callado,
pensativo, desconsolado, taciturno, afligido, decepcionado, compungido, mustio, desalentado, melancólico,
resignado, apagado, sombrío, dolorido, desengañado, alicaído, confuso, atribulado
"""

ANGRY = """
2*enfadado, furioso, colorado, molesto, ofendido, malhumorado, serio, indignado, airado, ceñudo, irritado,
rabioso, disgustado, picado, dolido, encolerizado, desafiante, nervioso, acalorado, exasperado, tenso,
sofocado
"""

# How one works.
MANNERS = """
sin perder un instante, con paciencia, paso a paso, con buen humor, poco a poco, con calma,
con todas sus fuerzas, con mucha atención, sin quejarse, a buen ritmo, con esmero, canturreando,
entre risas, sin prisa, con destreza, de buena gana, con ingenio, tarareando una copla, con cariño,
sin descanso, a conciencia, con tesón, con entusiasmo, con maña, silbando bajito, con el corazón ligero,
de mil amores, con la lengua fuera, con mucho arte, sin desfallecer, con gran concentración,
como quien juega, con brío, muy en serio, a su manera, con dedicación, con soltura, sin rechistar,
con vigor, con gracia, sin atajos, con humildad, con disciplina, con cabeza, con el alma en vilo,
con los pies en la tierra, con temple, al compás, sin distraerse, a pleno sol, con mucho sudor, con método,
sin protestar, con todo su empeño, a fondo, con orden, con perseverancia, como en un baile, con rapidez,
con delicadeza, sin miedo, con seguridad, con pulso firme, a pasitos, a ratos, por etapas, sin dudar,
con optimismo, con primor, como las hormigas, con fervor, alegremente, serenamente, lentamente,
diligentemente, con mucha fe, con elegancia, sin mirar el reloj, de sol a sol
"""

# How one measures, looks or listens.
CARES = """
con mucho cuidado, con calma, con esmero, con precisión, sin prisa, a la vista de todos, con paciencia,
sin hacer ruido, con toda seriedad, como un sabio, sin parpadear, con las gafas puestas, muy despacio,
con mucha ceremonia, con la cabeza ladeada, sin perder detalle, con interés, sin decir nada,
con los ojos bien abiertos, punto por punto, con delicadeza, con ojo experto, una y otra vez, con justicia,
sin pestañear, con suma atención, conteniendo la respiración, con los labios apretados,
como quien cuenta perlas, con infinita paciencia, con respeto, con escrúpulo, con un ojo cerrado,
sin prisas ni pausas, con gesto grave, con lupa, a la luz del sol, con rigor
"""

# How one walks.
PACES = """
a paso ligero, silbando, sin perder un instante, dando saltitos, a toda prisa, sin mirar atrás,
por el atajo, de buen humor, como el viento, a grandes zancadas, campo a través, con el viento a favor,
sin tropezar, cantando a voces, con calma, cuesta arriba, bajo el sol, de un tirón, con la frente alta,
a su ritmo, con nuevos bríos, entre aplausos, como una flecha, de puntillas, por la orilla,
de cara al viento, en línea recta, canturreando, sin aliento, a buen paso, con ganas,
por la senda de siempre, a trompicones, brincando, con los ojos al frente
"""

# After "said".
TAGS = """
en voz baja, con una sonrisa, muy despacio, mirando al suelo, entre dientes, con un guiño, tras un suspiro,
con solemnidad, sin dudarlo, con timidez, con firmeza, alzando la vista, con voz dulce, carraspeando,
con los ojos brillantes, al fin, con un hilo de voz, con aplomo, en tono amistoso, rascándose la cabeza,
con un gesto amable, casi en un susurro, con mucha calma, sin levantar la voz, con sinceridad,
con cierta prisa, con aire pensativo, de pronto, con franqueza, muy en serio, medio en broma, con dulzura,
tragando saliva, con voz ronca, sin rodeos, con ternura, con energía, con voz temblorosa, guiñando un ojo,
con una reverencia, sin pestañear, con prudencia, con alegría, como quien no quiere la cosa,
encogiéndose de hombros, con tono solemne, con media sonrisa, en tono alegre, con nobleza,
después de pensarlo, con la voz quebrada, mirando a lo lejos, con picardía, con gran seriedad, de corazón,
tranquilamente, tímidamente, alegremente, dulcemente, solemnemente, despacito, con admiración, con cautela,
con gravedad, sin apartar la mirada, con cortesía, con humildad, con ilusión, con la mirada baja,
tras una pausa, con voz clara, con respeto, con mucho tacto, sin apuro, de buen humor, con voz suave,
con ligereza, con entusiasmo
"""

ACCEPTS = """
2*De acuerdo, Me parece bien, Trato hecho, Hagámoslo así, Buena idea, Por mí que no quede, Probemos,
Acepto, Con mucho gusto, ¿Por qué no?, Cuenta conmigo, Me has convencido, Claro que sí, Adelante,
Así se habla, Me gusta la idea, Dicho y hecho, Tienes razón, No se hable más, Conforme, Palabra de honor,
Vale, Sea, ¡Eso es!, No puedo negarme, Qué gran idea, Así sea, Con los ojos cerrados, Me parece justo,
No tengo nada que objetar, Por supuesto, Contigo al fin del mundo, Sin problema, Empecemos ya,
Eso suena bien, Estoy contigo, Ya era hora, Perfecto, Qué remedio
"""

# When something comes next; capital letters are added where needed.
LATERS = """
al caer la tarde, antes de la cena, con las primeras estrellas, a mediodía, a media tarde,
al cabo de una hora, a la hora de la siesta, un rato más tarde, cuando sonó la campana, al ponerse el sol,
antes del anochecer, cuando refrescó, al final de la jornada, cuando salió la luna, a última hora,
al día siguiente, dos días más tarde, a la mañana siguiente, al terminar el día, cuando dieron las seis,
pasado un buen rato, bajo la luna llena, con la última luz, al sonar las ocho, tras el descanso,
tres días después, cuando callaron los grillos, al toque de queda, antes de la lluvia,
en el último momento, cuando cayó el rocío, con el cielo encendido, cuando volvieron los rebaños,
a la hora del té, al cerrar el mercado, al encenderse los faroles, una semana más tarde,
cuando se calmó el viento, después del almuerzo, ya de madrugada, con el canto del gallo,
al cruzar la niebla, bajo un cielo rosado, a la hora de las sombras largas, al sonar el gong,
tras la lluvia, al quinto día, en menos de una hora, al cabo de un mes, cuando volvió la calma,
con la marea baja, a la luz de un candil, después de la siesta, al filo de la noche,
cuando subió la niebla, un martes por la tarde, cuando nadie miraba, entre dos luces, al abrir las tiendas
"""

FEASTS = """
la fiesta del pueblo, sorprender a sus vecinos, el día de la primavera, la boda del molinero,
ganar unas monedas, animar a los enfermos, la noche de San Juan, el cumpleaños de la reina,
recibir al invierno, los viajeros, la gran feria, dar ejemplo, honrar a los abuelos, el carnaval,
acabar con el aburrimiento, la llegada de las cigüeñas, el mercado de Navidad, una apuesta,
la reina de las abejas, los niños del orfanato, la noche más larga, el fin de curso, alegrar el barrio,
celebrar la cosecha, el concurso comarcal, el Día del Árbol, cambiar de aires
"""

# What a useful thing is needed for.
ERRANDS = """
el invierno, un viaje, la mudanza, ordenar la casa, la fiesta del pueblo, una visita importante,
arreglar el gallinero, el huerto, una excursión, ayudar a su madre, el día de mercado, terminar un encargo,
la merienda, su nueva casa, el baile, una reparación urgente, acabar la limpieza, cierto asunto secreto,
los días de lluvia, la cosecha, una cena de gala, limpiar el pozo, el bautizo de su sobrino,
los inviernos duros, sacar brillo al salón, el viaje de novios, llevar leche al mercado, la vendimia,
guardar sus tesoros, el taller de costura, pasar la noche fuera, un experimento, la función de Navidad,
la romería, recoger aceitunas, alegrar la cocina, subir al monte, un regalo
"""

GARMENTS = """
2*la bufanda, 2*el sombrero, el chaleco, la gorra, el pañuelo, la capa, el delantal, la boina, el lazo,
el cinturón, la chaqueta, el jersey, la camisa, el gorro, el chal, el collar, la corbata, la diadema,
el poncho, la pajarita, el abrigo, el cascabel, la cinta, el mandil, la pulsera, el turbante, el monóculo,
la capucha, el paraguas, el medallón, la faja, la mochila, el abanico, el bolso, la flor, la pluma
"""

FOODS = """
pan con miel, sopa de calabaza, castañas asadas, queso fresco, tortitas de avena, ensalada de berros,
compota de manzana, bollos de canela, arroz con leche, zanahorias tiernas, brevas, moras silvestres,
empanadillas, almendras tostadas, crema de puerros, rosquillas, setas a la brasa, gachas dulces,
pimientos asados, natillas, membrillo, sopa de cebolla, patatas al horno, trufas del bosque,
pastel de manzana, maíz tostado, ciruelas maduras, migas de pastor, barquillos, mazapán, potaje de acelgas,
guisantes dulces, uvas frescas, nueces con queso, torrijas, churros, sopa de tomate, garbanzos tostados,
batatas asadas, pan de nueces, crema de calabaza, galletas de jengibre, mermelada de frambuesa,
tarta de queso, dátiles, alcachofas fritas, sandía fría, pepinos en vinagre, flan de huevo,
bizcocho de almendra, lentejas estofadas, tostadas con tomate, melocotones en almíbar, polenta,
habas tiernas, empanada de setas, caldo de verduras, mermelada de higo, pan de pasas, crema de castañas,
croquetas, puré de guisantes, alubias con tomate, queso ahumado, yogur con miel, avellanas tostadas,
pastas de té, requesón, tortilla de espinacas, remolacha dulce, melón con menta, sopa de ajo, pan de maíz,
arándanos, manzanas al horno, nabos rellenos, crepes, setas en salsa, turrón, mantecados,
coliflor gratinada, ensalada de naranja, pastel de calabaza, calabacines fritos, frambuesas con nata,
peras al vino, roscos de anís, caramelos de menta, pisto, cuscús de verduras, granizado de limón, boniatos,
empanadas de espinacas, pan recién hecho, sopa de fideos, arroz con setas, pastel de zanahoria
"""

SMELLS = """
tomillo, pan tostado, leña seca, hierbabuena, tierra mojada, jazmín, romero, canela, resina, fruta madura,
lavanda, flores de azahar, manzanilla, heno, salvia, café recién hecho, menta, sal, cera, chocolate, pino,
rosas, anís, humo dulce, limón, eucalipto, barro fresco, vainilla, moras, algas, musgo, almendras, clavo,
trigo segado, papel viejo, ciruelas, harina, madera recién cortada, azúcar quemado, violetas, laurel,
miel caliente
"""

SOUNDS = """
el canto de un mirlo, una campana lejana, el rumor del agua, el zumbido de una mosca,
la risa de unos niños, el crujido de una rama, el martillo de un herrero, el silbido de un pastor,
el traqueteo de un carro, el chirrido de una puerta, una vieja canción,
el martilleo de un pájaro carpintero, el balido de un rebaño, el murmullo del viento, un silbato remoto,
el goteo de una fuente, el aleteo de unas perdices, el tintineo de un cencerro, la voz de un pregonero,
el croar de un estanque, la música de un organillo, el eco de una trompa, el susurro de unas hojas secas,
el ladrido de un mastín, el galope de un potro, la campanilla de una bicicleta, el pitido de un tren,
la flauta de un cabrero, el trino de un jilguero, la sirena de un barco, el redoble de un tambor,
el chapoteo de unos remos, el mugido de un buey, el cuchicheo de unas vecinas, el tañido de un laúd,
el canto de un labrador
"""

LIGHTS = """
dorada, suave, clara, limpia, blanca, tibia, plateada, rosada, alegre, temblorosa, lechosa,
vieja y amarilla, delicada, pálida, rojiza, color de miel, verdosa, transparente, perezosa, perfecta
"""

# Bystanders, with the article "un".
NEIGHBOURS = """
el cartero, la panadera, el pastor, la molinera, el herrero, la maestra, el farolero, la costurera,
el barquero, la jardinera, el leñador, la alcaldesa, el relojero, la tejedora, el pescador, la posadera,
el alfarero, la pastora, el músico, la curandera, el carpintero, la lechera, el zapatero, la bibliotecaria,
el titiritero, la hilandera, el campanero, la boticaria, el capitán, la cocinera, el sastre, la florista,
el cabrero, el tendero, la cerrajera, el vigilante, la pintora, el bombero, la partera, el vidriero,
la ceramista, el marinero, la modista, el mecánico, la ingeniera, el cocinero, la astrónoma, el guarda,
la domadora, el juglar, la poeta, el pescadero, la frutera, el minero, la colchonera, el afilador,
la lavandera, el trovador, la violinista, el deshollinador, la apicultora, el marqués, la condesa,
el quesero, la botánica, el arquitecto, la cantante, el peluquero, la juguetera, el sombrerero,
la aguadora, el trapero, la taquillera, el guía, la directora, el tonelero, la vendimiadora, el heladero,
la escultora, el buhonero, la carbonera, el telegrafista, la comadrona
"""

ABODES = """
el pajar, la despensa, el desván, el establo, la bodega, el granero, el cobertizo, la cocina, el armario,
el sótano, la leñera, el gallinero, la buhardilla, el zaguán, el taller, la trastienda, el almacén,
el corral, la carbonera, el porche, la galería, el lagar, la glorieta, el cuarto de atrás, la torre vieja,
el palomar
"""

# Sayings, for walls and grandmothers.
SAYINGS = """
quien va solo llega tarde, dos hilos hacen un nudo, la prisa tropieza, nadie rema con un solo remo,
todo nudo se deshace entre dos, una mano lava la otra, las prisas rompen los cántaros,
quien siembra vientos recoge tempestades, más sabe quien más pregunta, la gota paciente abre la piedra,
una abeja no hace miel, el orgullo cena a solas, la cuerda floja no ata, donde comen dos comen tres,
quien mucho grita poco oye, el puente necesita dos orillas, agua compartida sabe mejor,
con paja y barro se hace un nido, no hay carreta con una sola rueda, el que presta descansa,
la llave pequeña abre la puerta grande, a cada puerta su vecino, el camino corto engaña,
quien abraza no aprieta, la sal sola no alimenta, barca de dos no se hunde
"""

# Morals that suit every set-up: clauses for "que ...".
MAXIMS = """
nadie es tan fuerte como dos que se entienden, la amistad se riega cada día,
lo bueno crece cuando se comparte, una palabra amable abre muchas puertas,
los caminos largos se hacen en compañía, ayudar también se aprende, el egoísmo tiene las patas cortas,
la confianza se gana gota a gota, más vale un amigo que un tesoro, pensar en los demás nunca sale caro,
el que escucha aprende y el que aprende mejora, los buenos tratos hacen buenos vecinos,
la paciencia da frutos dulces, nadie es más que nadie, un gesto pequeño puede cambiar un día entero,
el orgullo pesa más que una piedra, la alegría compartida es doble, cada cual recoge lo que siembra,
pedir perdón no hace pequeño a nadie, la verdad camina despacio pero llega, entre todos el peso es pluma,
la vida da muchas vueltas, quien cuida a los demás se cuida, lo que se hace con cariño dura
"""

# What somebody wants a thing for.
PURPOSES = """
entretener a sus sobrinos, no aburrirse por las noches, alegrar a su abuela, impresionar a sus primos,
la fiesta de su pueblo, recordar su infancia, una función de teatro, enseñar a los pequeños,
un viaje muy largo, descansar del trabajo, olvidar una pena, cumplir una promesa, celebrar su cumpleaños,
pasar las tardes de lluvia, copiar el modelo, practicar a solas, un regalo de boda, ganar una apuesta,
dar una sorpresa, una noche de verbena, ganar amigos, aprender algo nuevo, el recreo de la escuela,
cumplir un sueño, adornar su cuarto, la clase de música, un desfile, hacer reír a su hermano,
contarlo en sus memorias, el concurso de otoño, sentirse importante, dormir mejor, hacer un trueque,
conmover a la luna
"""

# Said in anger, between exclamation marks.
SHOUTS = """
Eso no es justo, Siempre quieres mandar, Conmigo no cuentes, Nunca me escuchas, No pienso ceder,
No entiendes nada, Así no llegaremos a ninguna parte, Qué cara tan dura, Esto es el colmo,
No me des órdenes, Yo sé más que tú, Siempre la misma historia, Ni lo sueñes, De ninguna manera,
Vaya manera de hacer las cosas, No tienes ni idea, Primero pregunta y luego habla, Eres insoportable,
Yo llegué antes, Déjame en paz, Ni hablar, No me grites, Cómo te atreves, Ya no aguanto más, Qué disparate,
Se acabó la paciencia, No eres el centro del mundo, Basta ya, Piensa un poco, Eso lo dirás tú, Me niego,
Esto no tiene sentido, No me hagas reír, Deja de mandar, Nunca cambiarás, Cállate un momento,
Eso es mentira, Qué ocurrencia, Lo haré a mi manera, Ni un paso más, Quita de ahí,
Tú siempre tienes excusas, Ya está bien, Nadie te ha preguntado, Qué falta de respeto, Mira quién habla,
Yo tengo razón, Eso no te lo crees ni tú, No te soporto, Qué cabeza de chorlito
"""
