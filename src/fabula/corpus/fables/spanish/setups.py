"""The twelve set-ups in Spanish.

Each is a scene in six pieces: ``problem`` (what happens), ``proposal`` (what one of them suggests, spoken or
told), ``deed`` (how they carry it out), ``good`` and ``bad`` (how it ends), and ``moral`` (a clause that
            reads
well after "que" and after a colon). A and B are the characters, P the two of them, L the place, O and Q
            things.
"""

from __future__ import annotations

SETUPS: dict[str, dict[str, str]] = {
    "resource_sharing": {
        "problem": """{when}, {P} [encontraron|descubrieron|hallaron|recogieron] {O:treat}{O.una} {size@O}
            {O.n}
            [junto al camino|{under} {atree}|detrás de una piedra|en {abode}|detrás {U=tree.del}
            {tree_look@U}].
            [No había nada más que comer|Era toda la comida que quedaba|En casa no quedaba nada
            |La cosecha iba a tardar|No quedaba otra cosa] y {P.ambos} tenían
            [hambre|un hambre de lobos|mucho apetito|el estómago vacío].""",
        "proposal": """<dialogue:¶—[Vamos a repartirl{O.o}|Yo hago las partes y tú eliges|Será mejor ir a
            medias
            |Cortaré dos partes iguales] —{said} {A}{tag}—.
            [Así nadie pasará hambre|De ese modo comeremos l{P.os} dos|No quiero comer mientras tú miras
            |Si nos peleamos se echará a perder|Es lo justo].{yes}
            | {^A} propuso repartirl{O.o} [a medias|con justicia|en partes iguales|sin
            discutir].{yes_told}>""",
        "deed": """[{^A} [dividió|repartió|separó] {O} [en dos partes iguales|por la mitad|a partes iguales
            |justo por el medio]{carefully}, y {B} [eligió|escogió] primero.
            [Ninguna era mayor que la otra|No sobró ni una miga|Ni {folk} habría visto diferencia]
            |{later}, [midieron|pesaron] {O}{carefully}: la mitad fue para {A} y la otra mitad, para {B}
            |Sobre {O}, {A} trazó una raya con [una ramita|un palo|una piedra|la uña], y {B} [comprobó
            |confirmó|declaró|certificó] que caía
            en medio{carefully}. Cada cual [tomó|cogió|recibió] su parte].""",
        "good": """[Comieron {under} {atree}, {glad_P}[, y aún sobró algo para {folk}|]
            |Les supo mejor que {meal}, y {P} [durmieron la siesta|acabaron cantando|brindaron con agua|se
            chuparon los dedos], {glad_P}
            |{later}, {B} guardó un poco para {folk} y le contó lo sucedido, {glad@B}].""",
        "bad": """[Pero|Sin embargo,|Por desgracia,|Lástima:|Aun así,] {B} volvió [de noche|a escondidas|de
            puntillas|en cuanto pudo] y se
            [comió|zampó|tragó|llevó] también la parte {A.del}.
            [Por la mañana|Al amanecer|Cuando salió el sol] no quedaba [ni comida ni confianza|nada que
            repartir
            |ni una miga], y {A} [se marchó|se fue|se alejó|partió], {sad@A}.""",
        "moral": """[lo que se reparte [con justicia|bien|de corazón] [alimenta|sabe|alegra] el doble
            |[quien come a solas|quien todo lo quiere] [se queda sin compañía|acaba sin nada]
            |media hogaza [con un amigo|en compañía] vale más que una entera [sin nadie|a solas]
            |una mesa con dos sillas [nunca está vacía|es un banquete]
            |[partir|compartir] no es perder]""",
    },
    "turn_taking": {
        "problem": """{when}, {P} [quisieron|decidieron|se empeñaron en] [usar|probar|estrenar] {O=toy.un}
            {look_O}
            que {folk} había [dejado|olvidado] [3*{under} {atree}|en {abode}].
            [Por desgracia,|Lo malo era que|El caso es que|Claro que] no
            [podían usarl{O.o} l{P.os} dos al mismo tiempo|había manera de usarl{O.o} a la vez].""",
        "proposal": """<dialogue:¶—[Hagamos turnos|Vayamos por turnos|Será mejor turnarnos|Un rato cada cual]
            —{said} {A}{tag}—. [Empieza tú, que yo espero|Cuando cuente hasta cien, cambiaremos
            |Tendremos el mismo tiempo|Tú primero].{yes}
            | {^A} propuso que [se turnaran|jugaran por turnos|cada cual tuviera su rato].{yes_told}>""",
        "deed": """[Primero|Al principio|{later},] {B} [jugó|disfrutó|se entretuvo] con {O} mientras {A}
            [contaba hasta cien|cantaba tres coplas|miraba un reloj de arena|vigilaba la sombra de {atree}
            |merendaba {food}|esperaba {care}].
            [Después cambiaron|Luego le tocó {A.al}|Más tarde cambiaron][, y {B} esperó sin protestar
            |, y fue {B} quien llevó la cuenta|].<#140: [Ningún turno duró más que otro|Nadie hizo trampas
            |Así pasaron las horas|No hubo ni una queja].>""",
        "good": """{later}, l{P.os} dos habían jugado lo mismo y [volvieron a casa|regresaron a casa|se
            despidieron] {glad_P}[, hablando del día siguiente
            |, oliendo a {smell}|, con las mejillas rojas|].<#150: {^O} [nunca tuvo dueño|fue de quien
            quisiera jugar
            |durmió aquella noche en {abode}].>""",
        "bad": """[Pero|Sin embargo,|Por desgracia,|Lástima:|Aun así,] en el último turno {B} no quiso
            soltar {O}. {^A} tiró [de un lado|con rabia|con fuerza], {B} tiró
            [del otro lado|más fuerte], y {O} se [rompió|partió|hizo pedazos].<#165: [Nadie volvió a jugar
            |Se acabaron los juegos|No hubo más turnos], y {P} [se fueron|volvieron a casa|se separaron],
            {sad@P}.>""",
        "moral": """[saber esperar [es también jugar|hace más corto el camino|es media victoria]
            |quien respeta el turno [ajeno|de los demás] [disfruta mejor del suyo|nunca se queda sin él]
            |lo que no cabe en dos manos [a la vez cabe por turnos|se puede turnar]
            |[la impaciencia|la prisa] rompe lo que la paciencia [reparte|une]
            |[hoy por ti y mañana por mí|a cada cual le llega su turno]]""",
    },
    "complementary_skills": {
        "problem": """{when}, {P} [se propusieron|decidieron|quisieron|se empeñaron en] {T=task}[ para
            {feast}|].
            {^A} solo [sabía|lograba|conseguía] {T.knack_a}; {B}, [en cambio|por su parte], {T.knack_b}.
            [Por separado no llegarían lejos|Ningun{P.o} podía hacerlo a solas|A cada cual le faltaba la mitad
            |Ningun{P.o} sabía hacer lo {P.delotro}].""",
        "proposal": """<dialogue:¶—[Lo que a mí me falta lo tienes tú|Cada cual hará lo que mejor sabe
            |Tu maña y la mía encajan|Nos necesitamos] —{said} {A}{tag}—.
            [Yo me encargaré de {T.knack_a}.|¿Y si unimos fuerzas?|Trabajemos en equipo.|Sin ti no podré.
            |Seremos un gran equipo.]{yes}
            | {^A} [sugirió|propuso] que cada cual [hiciera lo que mejor sabía|aportara su maña
            |pusiera su parte].{yes_told}>""",
        "deed": """[Con gran habilidad|Sin equivocarse|Con mano firme|{later}], {B} {T.b}{how}.
            [Mientras tanto|Entretanto|Por su parte|Al mismo tiempo], {A} {T.a}{how}. {T.done}.""",
        "good": """[{Folk} preguntó de quién era el mérito, y {P} [respondieron|contestaron] a la vez,
            {glad_P}
            |{later} cenaron {meal} y [repasaron|celebraron] cada detalle, {glad_P}
            |Nunca {A} ni {B} se habían sentido tan [orgullos{P.os}|content{P.os}|fuertes|útiles|felices
            |viv{P.os}]
            |{later}, {P} [compartieron|merendaron] {meal} con {folk}, {glad_P}].""",
        "bad": """[Pero|Sin embargo,|Por desgracia,|Lástima:|Aun así,] {B} contó [en la plaza|a todo el
            mundo|por ahí] que [todo el mérito era suyo|lo había hecho a solas|nadie le había ayudado].
            {^A} se [fue|marchó|alejó], {sad@A}, y la siguiente obra [quedó a medias|nunca se empezó|salió
            mal].""",
        "moral": """[donde no llega [una maña|un talento] llegan dos
            |nadie sabe de todo, pero [entre todos|entre dos] se sabe [mucho|más]
            |lo que a ti te falta [quizá le sobre a quien tienes al lado|puede tenerlo tu vecino]
            |las diferencias [suman cuando se juntan|son herramientas]
            |dos mitades bien unidas [forman algo entero|valen por tres]]""",
    },
    "trade": {
        "problem": """{when}, {A} [vio|comprobó|se dio cuenta de] que [necesitaba|le faltaba|le hacía falta]
            {Q=goods.un} para {errand},
            pero solo [tenía|poseía|le quedaba|encontró|podía ofrecer] {O=goods.un} {look_O}. {^B}, [por el
            contrario|en cambio], [guardaba|tenía|conservaba|poseía] {Q.un}
            [en {abode}|bajo la cama|desde hacía años] y [echaba de menos|llevaba meses buscando|quería]
            {O.un}<#85:
            para {errand}>.""",
        "proposal": """<dialogue:¶—Si me das {Q.tu}, te daré {O.mi} —{said} {A}{tag}—. [¿Hay trato?|¿Qué te
            parece?
            |Míral{O.o} sin prisa.|Saldremos ganando l{P.os} dos.|Nadie perderá nada.|¿Cambiamos?]{yes}
            | {^A} le ofreció {O} a cambio {Q.del}[, sin engaños|, con toda franqueza|].{yes_told}>""",
        "deed": """[{^A} puso {O} sobre [un tocón|una piedra plana|la mesa|la hierba], {B} colocó {Q} al
            lado, y
            {P} [miraron|examinaron|revisaron] todo{carefully}. Se dieron [la mano|un abrazo]: hecho el cambio
            |{^B} [examinó|probó|sopesó] {O}{carefully}; {A} [comprobó|miró por todos lados] {Q}{carefully}.
            {later}, {O} ya era {B.del} y {Q}, {A.del}].""",
        "good": """[{later}, {A} estrenó {Q}, {glad@A}, y {B} no se separó {O.del}
            |Un [mes|año] después seguían tan [content{P.os}|felices|encantad{P.os}|satisfech{P.os}] con el
            cambio que lo festejaron con {folk}
            |{Folk} quiso imitarlos, y pronto hubo allí un [alegre|pequeño|animado|famoso] mercado de
            trueques].""",
        "bad": """[Pero|Sin embargo,|Por desgracia,|Lástima:|Aun así,] {Q} [estaba a punto de romperse|tenía
            un defecto escondido|ya no servía para nada], y {B} lo
            había callado. {^A} reclamó, {angry@A}, y {B} se encogió de hombros.
            Desde entonces nadie [quiso hacer tratos|cambió nada|habló] con {B}.""",
        "moral": """[un trato [justo|honrado|limpio] [deja contentas a las dos partes|hace dos amigos]
            |lo que a uno le sobra [puede ser un tesoro para otro|a otro le hace falta]
            |la confianza [es la mejor moneda|vale más que la mercancía]
            |quien cambia sin engañar [gana dos veces|duerme tranquilo]
            |un buen cambio [no tiene perdedores|se hace con las manos limpias]]""",
    },
    "joint_problem_solving": {
        "problem": """{when}, {P} [vieron|descubrieron|supieron|oyeron] que {T=snag.trouble}. {^A} lo
            intentó a solas
            [dos|tres|cinco|siete] veces, [en vano|sin éxito|y nada]; {B} también
            [fracasó|se rindió|acabó por sentarse], {sad@B}.""",
        "proposal": """<dialogue:¶—[A solas no podremos|Esto no se arregla a solas|Pensemos un poco|Se me
            ocurre algo]
            —{said} {A}{tag}—. [Habrá que|Podríamos|Deberíamos|Probemos a|Hay que] {T.plan}.{yes}
            | [Tras pensarlo mucho|Por fin|Después de dibujar en la arena|{later}], {P} [acordaron
            |decidieron|resolvieron] {T.plan}.>""",
        "deed": """[Sin más demora,|Manos a la obra:|Dicho y hecho:] {A} {T.a}{how}, [mientras|en tanto que
            |al tiempo que] {B} {T.b}{how}.
            <#150:[Les costó|No fue fácil|Tardaron|Sudaron|Dudaron], pero [siguieron|no se desanimaron
            |insistieron]. >{T.solved}.""",
        "good": """[{Folk} [les regaló|les llevó|les preparó] {meal} para dar las gracias
            |{later}, l{P.os} dos se abrazaron, {glad_P}
            |{Folk} no habló de otra cosa [durante una semana|hasta el domingo|en todo el mes]
            |Descansaron {under} {atree}, {glad_P}, y [se rieron del susto|compartieron {meal}]].""",
        "bad": """[Pero|Sin embargo,|Por desgracia,|Lástima:|Aun así,] [habían tardado demasiado|se habían
            puesto de acuerdo muy tarde], y
            {folk} ya [se había marchado|lo había perdido todo|no quería saber nada].
            {^A} y {B} se miraron, {sad@P}.""",
        "moral": """[dos que piensan a la par [ven|valen] el doble
            |los problemas [grandes|difíciles|pesados] [se hacen pequeños|pesan menos] entre dos
            |cuatro ojos [encuentran lo que dos no ven|ven más que dos]
            |la fuerza sin acuerdo [se gasta en vano|no mueve nada]
            |antes de rendirse conviene pedir [ayuda|consejo]]""",
    },
    "communication": {
        "problem": """{when}, {A} [quiso|decidió|tuvo que] pedirle {B.al} {O=goods.un} para {errand}, pero
            [habló tan deprisa
            |dio tan pocas explicaciones|hizo unas señas tan raras|hablaba con la boca tan llena] que {B}
            [entendió otra cosa|no comprendió nada]. {later}, {B} [volvió|regresó|apareció] con
            {Q=goods.un} {look_Q}.""",
        "proposal": """<dialogue:¶—[No era eso|No nos hemos entendido|Ha sido culpa mía|Qué enredo] —{said}
            {A}{tag}—.
            [Te lo explicaré mejor|Déjame empezar de nuevo|Hablaré más despacio|Escúchame bien]: necesito
            {O.un}.
            ¶—[¡Ahora lo entiendo!|Lo repito: {O.un}|¿{^O.un}? ¡Haber empezado por ahí!|¡Acabáramos!|¡Por
            supuesto!]
            —[respondió|contestó|dijo|exclamó] {B}{tag}.
            | {^A} explicó de nuevo, esta vez [despacio|con gestos|con un dibujo], que necesitaba {O.un}, y
            {B}
            [repitió el encargo|hizo preguntas] para [estar segur{B.o}|no confundirse].>""",
        "deed": """[Esta vez|Ahora sí|A la segunda], {B} [escuchó hasta el final|lo apuntó en una hoja
            |lo repitió palabra por palabra|tomó buena nota] y fue [a casa {folk_of}|al mercado|en su
            busca], {pace}.
            {later} trajo {O.un} {look_O}<#150:[, justo lo que hacía falta|, tal como quería {A}|, y no hubo
            más enredos]>.""",
        "good": """[{^A} le dio las gracias con {meal}, y {P} se rieron del enredo, {glad_P}
            |L{P.os} dos [inventaron|acordaron] una señal para entenderse: [tres palmadas|un silbido
            |dos toques en la puerta|un guiño]
            |Con {O}, todo [salió bien|fue más fácil], y {folk} [se quedó con|heredó|compró] {Q}].""",
        "bad": """[Pero|Sin embargo,|Por desgracia,|Lástima:|Aun así,] entre tantas idas y venidas [se había
            hecho de noche|había pasado la hora], y {O} ya no servía.
            {^A} y {B} se sentaron [en el suelo|{under} {atree}], {sad@P}, sin [decir palabra|ganas de
            hablar].""",
        "moral": """[hablar claro [ahorra camino|evita enredos|es de buenos amigos]
            |quien escucha hasta el final [no da dos viajes|acierta a la primera]
            |preguntar [no cuesta nada|es más barato que equivocarse]
            |una palabra bien dicha vale por [cien carreras|mil señas]
            |nadie adivina lo que [no se dice|se calla]]""",
    },
    "altruism": {
        "problem": """{when}, {B} perdió {O=goods.su}[ en el mercado| en el río| por el camino|] y [no sabía
            qué hacer
            |temblaba de pena|lloraba {under} {atree}|no podía seguir su viaje|se sentó a llorar].
            {^A} tenía {O.un} {look_O}, [pero solo {O.uno}|{O.uno} nada más|y le tenía mucho cariño].""",
        "proposal": """<dialogue:¶—[Toma|Ten|Es para ti]: [te l{O.o} regalo|quédate con {O.este}
            |te hará más falta que a mí] —{said} {A}{tag}.
            ¶—[¿Y tú qué harás?|¿No te hará falta?|No sé cómo agradecértelo|¿De verdad?|¡Qué corazón tienes!]
            —[dijo|susurró|balbuceó|murmuró] {B}, [emocionad|conmovid|asombrad|agradecid|turbad]{B.o}.
            ¶—[Ya me arreglaré.|Eso no importa.|Yo tengo casa y abrigo.|Algún día me ayudarás tú.]
            | {^A} [lo pensó un momento|apenas lo dudó|miró el cielo y suspiró]: le [preocupaba|dolía] más
            la pena {B.del} que quedarse sin nada.>""",
        "deed": """Y le [entregó|ofreció|regaló|dejó para siempre] {O}, [en silencio|con las dos
            manos
            |sin pedir nada|con una reverencia|de todo corazón]. <#135:[Además le [dio|preparó] {meal} para
            el camino
            |Luego l{B.o} acompañó hasta [la fuente|el cruce|la última casa]|También le habló {folk_of}].
            >{^B} [siguió su viaje|se marchó|se alejó], {pace}, {glad@B}.""",
        "good": """[Meses después,|Al llegar el invierno,|Al año siguiente,] {once}, fue {A} quien
            [cayó enferm{A.o}|se perdió en la niebla|se quedó sin leña|tuvo un apuro]; {B}
            [apareció|acudió|llegó] [con {meal}|con una luz|sin que nadie l{B.o} llamara], {pace}.""",
        "bad": """[Pero|Sin embargo,|Por desgracia,|Lástima:|Aun así,] {B} [nunca dio las gracias|olvidó
            aquel favor] y [vendió|perdió|rompió] {O} [en la primera feria
            |en dos días|sin darle importancia]. {^A} lo supo por {folk} y se quedó {sad@A},
            aunque [no se arrepintió|habría vuelto a hacerlo].""",
        "moral": """[el bien que se hace [vuelve por otro camino|nunca se pierde]
            |dar lo que sobra es fácil; dar lo que falta, [generoso|hermoso|difícil]
            |quien ayuda sin esperar nada [ya ha recibido bastante|duerme mejor]
            |un corazón generoso [nunca está vacío|abriga más que una manta]
            |la bondad no [lleva cuentas|se anuncia]]""",
    },
    "conflict_resolution": {
        "problem": """{+brief}{when}, {P} [encontraron|hallaron|vieron] {O=toy.un} {look_O} {under} {atree}, y cada
            cual
            [aseguraba|juraba|decía] que era suy{O.o}. {^A} tiraba [de un lado y {B} del otro
            |hacia la derecha y {B} hacia la izquierda], {angry@P}.""",
        "proposal": """<dialogue:¶—[Busquemos a alguien que nos escuche|Que decida alguien de fuera
            |Necesitamos un juez
            |Pidamos consejo] —{said} {A}{tag}.{yes}
            | [Cansad{P.os}|Agotad{P.os}|Ronc{P.os}] de discutir, [decidieron|acordaron] pedir consejo.>""",
        "deed": """{Folk} [escuchó|dejó hablar] primero {A.al} y después {B.al}{carefully}. <#140:{^A}
            quería {O} para {purpose};
            {B}, para {purpose}. >[Acordaron|Convinieron en|Decidieron] que {O} sería {A.del}
            [por las mañanas y {B.del} por las tardes|los días pares y {B.del} los impares
            |en verano y {B.del} en invierno|una semana y {B.del} la siguiente].""",
        "good": """[{later} se dieron la mano, {glad_P}|Sellaron la paz con {meal}, {glad_P}
            |L{P.os} dos se echaron a reír, {glad_P}
            |{later} hubo {meal} para celebrarlo][, y nadie volvió a discutir por {O}|].""",
        "bad": """[Pero|Sin embargo,|Por desgracia,|Lástima:|Aun así,] [al día siguiente|al tercer día|muy
            pronto] {B} [faltó a su palabra|rompió el acuerdo] y escondió {O}
            en {abode}. {^A} dejó de [hablarle|saludarl{B.o}], {sad@A},
            y {O} se [llenó de polvo|estropeó|cubrió de telarañas].""",
        "moral": """[escuchar [es medio acuerdo|apaga más fuegos que el agua]
            |detrás de cada grito hay [una razón|un deseo] que escuchar
            |para hacer las paces [hay que abrir los oídos|basta con dar el primer paso]
            |quien cede un poco [gana mucho|no pierde nada]
            |un buen acuerdo [dura más que una victoria|vale más que un buen pleito]]""",
    },
    "failed_cooperation": {
        "problem": """{when}, {P} [empezaron a|se pusieron a|intentaron|quisieron] {T=task}[ para {feast}|]
            sin
            [ponerse de acuerdo|hablarlo antes|hacer ningún plan]. [L{P.os} dos mandaban y nadie obedecía
            |Cada cual trabajaba a su aire|Cada cual deshacía lo que hacía el otro|No paraban de chocar],
            y {later_low} todo [se vino abajo|había salido mal|era un desastre].""",
        "proposal": """<dialogue:¶—[Hemos trabajado mucho y mal|¿En qué nos hemos equivocado?|No basta con
            tener ganas
            |Qué torpes hemos sido] —[dijo|suspiró|reconoció|murmuró|admitió] {A}, {sad@A}.
            ¶—[Nos faltó un plan|No nos escuchábamos|Queríamos hacer lo mismo|Cada cual iba a lo suyo]
            —{replied} {B}{tag}—. [Yo me ocuparé de {T.knack_b}|Empecemos otra vez|Repartamos la tarea
            |Probemos de otra manera].
            | [Se sentaron|Se detuvieron] a pensar qué había [fallado|salido mal] y
            [repartieron|dividieron|ordenaron] las tareas.>""",
        "deed": """[Al segundo intento|A la mañana siguiente|Con el nuevo plan|Después de descansar], {A}
            {T.a}{how},
            y {B} {T.b}{how}. <#150:[En cada duda se preguntaban|Antes de cada paso se avisaban
            |Ya nadie estorbaba a nadie|Todo iba sobre ruedas]. >{T.done}.""",
        "good": """[Aquel fracaso les había enseñado más que [cien consejos|un libro|diez maestros]
            |{later}, l{P.os} dos se miraron, {glad_P}|{Folk} no podía creerlo][, y cenaron {meal}|, y durmieron a pierna suelta|].""",
        "bad": """[Pero|Sin embargo,|Por desgracia,|Lástima:|Aun así,] {B} se cansó [enseguida|muy pronto
            |antes de tiempo] y volvió a [hacer las cosas a su manera
            |las andadas]. [A los pocos días|Antes de una semana] no quedaba nada de aquella obra, y {A}
            [se rindió|lo dejó], {sad@A}.""",
        "moral": """[equivocarse en compañía [también enseña|duele menos]
            |un plan sencillo vale más que [mucha fuerza|mil carreras]
            |quien corrige a tiempo [no fracasa|llega igual]
            |trabajar [mucho|duro] no basta: hay que trabajar [de acuerdo|a la par]
            |[de los errores|de las caídas] se sale mejor [en compañía|con un plan]]""",
    },
    "non_cooperative_agent": {
        "problem": """{when}, {A} y [otros animales|los vecinos|media aldea|{folk}] [se pusieron a|empezaron
            a] {T=task}.
            {^B} [no quiso ayudar|se negó a mover un dedo|se tumbó {under} {atree}]:
            [prefería dormir|se creía demasiado importante|le daba pereza|quería comer {meal}].""",
        "proposal": """<dialogue:¶—[¿No vas a ayudarnos?|Nos vendría bien otra mano|Si ayudas, acabaremos
            antes|¿Nos echas
            una mano?] —{said} {A}{tag}.
            ¶—[Que trabajen los demás|Yo no pienso cansarme|Ya lo haréis sin mí|Eso no es asunto mío|Mañana,
            quizá]
            —[bostezó|contestó|rezongó|gruñó|masculló] {B}.
            | {^A} le pidió ayuda [dos|tres|varias] veces, [pero {B} se hizo el sordo|y {B} siempre tenía
            una excusa
            |pero fue en vano].>""",
        "deed": """[Así que|De modo que|Por eso] {A} {T.a}{how}, y {folk} se [encargó|ocupó] de {T.knack_b}.
            {T.done}, y {B} [se moría de envidia|miraba desde lejos|no tenía nada que celebrar|apretaba los
            dientes].""",
        "good": """{later}, {B} se acercó, {sad@B}, y [pidió perdón|preguntó si aún podía ayudar].
            Le [dieron una escoba|hicieron un sitio|ofrecieron {meal}], y [desde entonces|a partir de ese
            día] fue {B}
            quien [llegaba antes|más madrugaba|más ayudaba].""",
        "bad": """{later}, {B} quiso [aprovecharse|disfrutar] de todo, pero [nadie se lo permitió|le
            cerraron la puerta
            |{folk} dijo que no]. Se [fue|alejó] a solas, {sad@B}, mientras los demás [cenaban|merendaban
            |compartían|saboreaban] {meal}.""",
        "moral": """[quien no siembra [no puede pedir la cosecha|mira comer a los demás]
            |la pereza [come sola|tiene la mesa vacía]
            |nunca es tarde para echar una mano[, pero más vale temprano|, aunque conviene no tardar]
            |el que solo mira [se queda fuera|no llega a la fiesta]
            |lo que nadie ayuda a llevar pesa [el doble|más]]""",
    },
    "win_lose": {
        "problem": """{when}, {folk} [anunció|hizo saber|pregonó] que [regalaba|entregaría] {O=prize.un}
            {state@O}
            [a un solo vecino|a una sola persona]. {^A} l{O.o} [quería|deseaba] [más que nada|con toda el
            alma|desde siempre
            |para {purpose}], y {B} también. [No se podía partir|No había otr{O.o} igual].""",
        "proposal": """<dialogue:¶—[Echémoslo a suertes|Que decida la suerte|Saquemos una pajita cada cual
            |Lo justo es
            un sorteo] —{said} {A}{tag}—. [Y quien pierda no se enfadará|Pase lo que pase, seguiremos como
            siempre
            |Prometamos no guardar rencor|Sin trampas ni enfados].{yes}
            | Como [no había otra salida|alguien tenía que perder], [acordaron|decidieron] echarlo a
            suertes.>""",
        "deed": """[Lanzaron una moneda|Sacaron pajitas|Metieron dos piedras en una bolsa|Tiraron un dado],
            [conteniendo
            el aliento|con los ojos cerrados|con las manos temblorosas|ante {folk}], y [ganó {B}|la suerte
            eligió {B.al}].
            {^A.al} se le [encogió el corazón|llenaron los ojos de lágrimas|hizo un nudo en la garganta], pero
            [le dio la mano|aplaudió|cumplió su palabra]. {^B} [recibió|levantó] {O} sin [presumir
            |burlarse].""",
        "good": """{later}, {B} [invitó {A.al} a {meal}|compartió {meal} con {A}] y le dijo que [así también
            se ganaba|sin amigos no hay premio|nadie perdía con
            tanta elegancia],
            y {A} [volvió|regresó] [a casa|a su hogar], {glad@A}.""",
        "bad": """[Pero|Sin embargo,|Por desgracia,|Lástima:|Aun así,] [con los días|poco a poco] {A} se
            llenó de [rencor|envidia|amargura] y dejó de [hablar|saludar] {B.al}.
            {^B} se quedó con {O} y sin [amigos|nadie con quien celebrarlo], {sad@B}.""",
        "moral": """[no siempre se gana, pero siempre se puede [saber perder|perder con nobleza]
            |hay premios que solo caben en una mano, [y amistades que caben en dos|pero la amistad no es uno
            de ellos]
            |quien pierde con elegancia [conserva lo mejor|nunca pierde del todo]
            |ganar no da derecho a [presumir|olvidar a quien pierde]
            |la suerte reparte los premios, y cada cual pone [la dignidad|la elegancia|el valor]]""",
    },
    "fair_competition": {
        "problem": """{feastday} [se celebraba|tenía lugar|comenzaba|llegaba] {contest}, y {P} se [apuntaron
            |inscribieron|prepararon]. [El premio era|Se ganaba|El ganador recibiría|Como premio había]
            {O=prize.un} {state@O}. [Nadie entrenaba tanto|Llevaban semanas preparándose|L{P.os} dos soñaban
            con ganar],
            y {folk} [presidía el jurado|vigilaba las reglas|contaba los puntos].""",
        "proposal": """<dialogue:¶—[Que gane quien lo haga mejor|Prometamos jugar limpio|Nada de trampas
            |Mucha suerte]
            —{said} {A}{tag}—. [Así el premio sabrá a gloria
            |Lo importante es dar lo mejor|Y sin rencores].{yes}
            | [Antes de empezar|Antes de la salida|De antemano] [prometieron jugar limpio|se desearon suerte
            |repasaron las reglas] y se dieron la mano.>""",
        "deed": """[Durante la prueba|En plena prueba|A mitad de la prueba], {B} [se mareó|se quedó sin
            fuerzas
            |se sintió mal|empezó a temblar], y {A}, [en vez de aprovecharse|aunque iba por delante
            |que pudo sacar ventaja], [se detuvo a ayudarl{B.o}|esperó a que se recuperara|pidió una pausa].
            [Luego|Después] [siguieron|continuaron|prosiguieron], {manner}. [Por muy poco|Por los pelos|Por
            un suspiro|Al final], [ganó|venció|se impuso] {B}.""",
        "good": """[{^B} [partió el aplauso en dos|subió al podio con {A}|levantó la mano {A.del}], y {P}
            [acabaron
            |terminaron] {glad_P}
            |{^A} fue <A.f:la primera|el primero> en felicitar {B.al}, {glad@A}, y {P} [merendaron|cenaron]
            {meal}
            |El público [aplaudió a l{P.os} dos|se puso en pie], y {A} sonrió, {glad@A}].""",
        "bad": """[Pero|Sin embargo,|Por desgracia,|Lástima:|Aun así,] {B} había [hecho trampas|engañado a
            todos|fingido aquel percance], y {folk} [lo descubrió|lo vio todo|se dio cuenta].
            Se quedó sin {O} y sin [aplausos|amigos], y {A} [se marchó|se fue|se alejó|partió], {sad@A},
            [antes de que acabara|sin esperar
            el final de] la fiesta.""",
        "moral": """[ganar [limpiamente|sin trampas] vale más que [cualquier premio|mil medallas]
            |el rival de hoy [puede ser el amigo de mañana|nos hace mejores]
            |una victoria con trampas [pesa más que una derrota|no alegra a nadie]
            |quien tiende la mano al que cae [nunca queda último|gana aunque pierda]
            |competir no es [pelear|odiarse]]""",
    },
}
